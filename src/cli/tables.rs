//! Tables as text and Markdown, and how numbers look in them.

use std::fmt::Write;

use crate::spelling::one_line;

/// Characters of a line for people.
pub const LINE: usize = 80;

/// A table; its columns are as wide as their widest cell.
pub struct Table {
    pub title: String,
    pub columns: Vec<&'static str>,
    /// Columns from the left that are words, not numbers.
    pub words: usize,
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// For people, in lines of at most [`LINE`] characters: words to the left, numbers to the right. In a table that is too wide, what
    /// all rows share stands above it; in one that still is, the words of a row are a line of their own, and what then does not fit goes
    /// on in the next line.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let rows: Vec<Vec<String>> = self.rows.iter().map(|row| row.iter().map(one_line).collect()).collect();
        self.text_of(&rows)
    }

    fn text_of(&self, rows: &[Vec<String>]) -> Result<String, std::fmt::Error> {
        let heads: Vec<String> = self.columns.iter().map(|name| name.to_string()).collect();
        let width = |column: usize| rows.iter().chain([&heads]).map(|line| line[column].chars().count()).max().unwrap_or(0);
        let wide = |columns: &[usize], gap: usize| columns.iter().map(|&column| width(column) + gap).sum::<usize>().saturating_sub(gap);
        let mut shown: Vec<usize> = (0..self.columns.len()).collect();
        let mut shared = Vec::new();
        let is_shared = |column: usize| rows.len() == 1 || rows.iter().all(|row| row[column] == rows[0][column]);
        if wide(&shown, 1) > LINE {
            // All of a single row is shared, and as much of it stands above as has to.
            (shared, shown) = shown.into_iter().partition(|&column| rows.len() > 1 && is_shared(column));
            while rows.len() == 1 && wide(&shown, 1) > LINE {
                shared.push(shown.remove(0));
            }
        }
        let mut out = format!("{}\n", fitted(&self.title));
        if !shared.is_empty() {
            let facts = shared.iter().map(|&column| format!("{} {}", self.columns[column], rows[0][column]));
            writeln!(out, "{}", fitted(&format!("all rows: {}", facts.collect::<Vec<_>>().join(", "))))?;
        }
        let is_wide = wide(&shown, 1) > LINE;
        let (words, numbers): (Vec<usize>, Vec<usize>) = shown.iter().partition(|&&column| is_wide && column < self.words);
        let indent = if words.is_empty() { "" } else { "  " };
        let gap = if wide(&numbers, 2) + indent.len() > LINE { 1 } else { 2 };
        let mut above = String::new();
        for line in std::iter::once(&heads).chain(rows) {
            let own = words.iter().map(|&column| line[column].as_str()).collect::<Vec<_>>().join(" ");
            if own != above {
                writeln!(out, "{}", fitted(&own))?;
                above = own;
            }
            if numbers.is_empty() {
                continue;
            }
            let mut row = String::new();
            for &column in &numbers {
                let (cell, width) = (&line[column], width(column));
                let lead = if row.is_empty() { indent.len() } else { row.chars().count() + gap };
                if !row.is_empty() && lead + width > LINE {
                    writeln!(out, "{}", row.trim_end())?;
                    row = String::new();
                }
                row += if row.is_empty() { indent } else { &"  "[..gap] };
                row += &if column < self.words { format!("{cell:width$}") } else { format!("{cell:>width$}") };
            }
            writeln!(out, "{}", row.trim_end())?;
        }
        Ok(out)
    }

    /// As Markdown.
    pub fn markdown(&self) -> Result<String, std::fmt::Error> {
        let mut out = format!("**{}**\n\n| {} |\n", self.title, self.columns.join(" | "));
        writeln!(out, "|{}{}", "---|".repeat(self.words), "--:|".repeat(self.columns.len() - self.words))?;
        for row in &self.rows {
            writeln!(out, "| {} |", row.iter().map(in_table).collect::<Vec<_>>().join(" | "))?;
        }
        Ok(out)
    }
}

/// A cell of a Markdown table: no bar and no line break of its own ends it.
pub fn in_table(cell: &String) -> String {
    one_line(cell).replace('|', "\\|")
}

/// A number with four significant digits, at least: 0.01234, 1.234, 12345.
pub fn four_digits(value: f64) -> String {
    let decimals = 3 - value.abs().max(1e-6).log10().floor() as i64;
    format!("{value:.*}", decimals.clamp(0, 9) as usize)
}

/// The same in thousandths, or a dash.
pub fn milli(seconds: Option<f64>) -> String {
    optional(seconds.map(|seconds| 1e3 * seconds))
}

/// The same of what may be missing.
pub fn optional(value: Option<f64>) -> String {
    value.map_or("-".into(), four_digits)
}

/// `12.3%`, or a dash.
pub fn percent(share: Option<f64>) -> String {
    share.map_or("-".into(), |share| format!("{:.1}%", 100.0 * share))
}

/// A text whose lines are at most [`LINE`] characters long, but for words that are longer: what is too much goes on in an indented line.
pub fn fitted(text: &str) -> String {
    let line = |line: &str| {
        if line.chars().count() <= LINE {
            return line.to_string();
        }
        let start = line.len() - line.trim_start().len();
        let mut words = line[start..].split(' ').map(String::from);
        let first = format!("{}{}", &line[..start], words.next().unwrap_or_default());
        wrapped(std::iter::once(first).chain(words))
    };
    text.split('\n').map(line).collect::<Vec<_>>().join("\n")
}

/// Words in lines of at most [`LINE`] characters; lines after the first are indented.
pub fn wrapped(words: impl IntoIterator<Item = String>) -> String {
    let mut lines = vec![String::new()];
    for word in words {
        let last = lines.len() - 1;
        let used = lines[last].chars().count();
        if used > 0 && used + 1 + word.chars().count() > LINE {
            lines.push(format!("  {word}"));
        } else {
            if used > 0 {
                lines[last].push(' ');
            }
            lines[last].push_str(&word);
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wide_table_says_once_what_all_rows_share() {
        let table = |name: &str, n: usize| Table {
            title: "title".into(),
            columns: vec!["name", "bits", "ms"],
            words: 1,
            rows: (0..n).map(|row| vec![format!("{name}{row}"), "16".into(), "1.5".into()]).collect(),
        };
        assert_eq!(table("a", 2).text().unwrap(), "title\nname  bits   ms\na0      16  1.5\na1      16  1.5\n");
        let long = "a".repeat(75);
        let expected = format!("title\nall rows: bits 16, ms 1.5\nname\n{long}0\n{long}1\n");
        assert_eq!(table(&long, 2).text().unwrap(), expected);
        let expected = format!("title\nall rows: name {long}0\nbits   ms\n  16  1.5\n");
        assert_eq!(table(&long, 1).text().unwrap(), expected.replace("name a", "name\n  a"), "of one row, what does not fit");
    }

    /// No line is longer than it may be, and every cell is there.
    #[test]
    fn any_table_fits() {
        for (columns, len, n) in [(3, 40, 2), (12, 9, 1), (12, 9, 3), (30, 20, 2), (2, 70, 4), (1, 80, 1)] {
            let cell = |row: usize, column: usize| format!("{}{row}", "x".repeat(len - 1 - column % 2));
            let rows = (0..n).map(|row| (0..columns).map(|column| cell(row, column)).collect()).collect();
            let table = Table { title: "of words ".repeat(20), columns: vec!["head"; columns], words: 2.min(columns), rows };
            let text = table.text().unwrap();
            assert!(text.lines().all(|line| line.chars().count() <= LINE), "{columns} columns of {len}:\n{text}");
            assert_eq!(text.matches('x').count(), table.rows.iter().flatten().map(|cell| cell.matches('x').count()).sum::<usize>());
        }
        let rows = vec![vec!["a".into(), "b".repeat(70), "1".into(), "2".repeat(40)]; 2];
        let mut table = Table { title: "t".into(), columns: vec!["op", "shape", "n", "ms"], words: 2, rows };
        (table.rows[1][2], table.rows[1][3]) = ("7".into(), "3".repeat(40));
        table.rows.push(vec!["c".into(), "b".into(), "5".into(), "6".into()]);
        let (b, two, three, space) = ("b".repeat(70), "2".repeat(40), "3".repeat(40), " ".repeat(38));
        let expected = format!("t\nop shape\n  n  {space}ms\na {b}\n  1  {two}\n  7  {three}\nc b\n  5  {space} 6\n");
        assert_eq!(table.text().unwrap(), expected);
        assert_eq!(fitted("short\n  as it is"), "short\n  as it is");
        assert_eq!(fitted(&format!("  {} {}", "a".repeat(50), "b".repeat(50))), format!("  {}\n  {}", "a".repeat(50), "b".repeat(50)));
    }
}
