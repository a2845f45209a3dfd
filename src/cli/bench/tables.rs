//! Tables as text and Markdown, and how numbers look in them.

use std::fmt::Write;

/// Characters of a line for people.
const LINE: usize = 80;

/// A table; its columns are as wide as their widest cell.
pub struct Table {
    pub title: String,
    pub columns: Vec<&'static str>,
    /// Columns from the left that are words, not numbers.
    pub words: usize,
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// For people: words to the left, numbers to the right. In a table that is too wide, what all rows share stands above it.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let heads: Vec<String> = self.columns.iter().map(|name| name.to_string()).collect();
        let lines = || std::iter::once(&heads).chain(&self.rows);
        let width = |column: usize| lines().map(|line| line[column].chars().count()).max().unwrap_or(0);
        let all: Vec<usize> = (0..self.columns.len()).collect();
        let wide = |columns: &[usize], gap: usize| columns.iter().map(|&column| width(column) + gap).sum::<usize>() - gap;
        let is_shared = |column: &usize| self.rows.len() > 1 && self.rows.iter().all(|row| row[*column] == self.rows[0][*column]);
        let (shared, shown): (Vec<usize>, Vec<usize>) =
            if wide(&all, 1) > LINE { all.iter().partition(|column| is_shared(column)) } else { (Vec::new(), all) };
        let gap = if wide(&shown, 2) > LINE { " " } else { "  " };
        let mut out = format!("{}\n", self.title);
        if !shared.is_empty() {
            let facts = shared.iter().map(|&column| format!("{} {}", self.columns[column], self.rows[0][column]));
            writeln!(out, "all rows: {}", facts.collect::<Vec<_>>().join(", "))?;
        }
        for line in lines() {
            let padded = shown.iter().map(|&column| {
                let (cell, width) = (&line[column], width(column));
                if column < self.words { format!("{cell:width$}") } else { format!("{cell:>width$}") }
            });
            writeln!(out, "{}", padded.collect::<Vec<_>>().join(gap).trim_end())?;
        }
        Ok(out)
    }

    /// As Markdown.
    pub fn markdown(&self) -> Result<String, std::fmt::Error> {
        let mut out = format!("**{}**\n\n| {} |\n", self.title, self.columns.join(" | "));
        writeln!(out, "|{}{}", "---|".repeat(self.words), "--:|".repeat(self.columns.len() - self.words))?;
        for row in &self.rows {
            writeln!(out, "| {} |", row.join(" | "))?;
        }
        Ok(out)
    }
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
        assert!(table(&long, 1).text().unwrap().ends_with("0   16 1.5\n"), "a row of its own shares nothing");
    }
}
