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
    /// For people: words to the left, numbers to the right.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let heads: Vec<String> = self.columns.iter().map(|name| name.to_string()).collect();
        let lines = || std::iter::once(&heads).chain(&self.rows);
        let width = |column: usize| lines().map(|line| line[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let wide: usize = widths.iter().map(|width| width + 2).sum();
        let gap = if wide > LINE + 2 { " " } else { "  " };
        let mut out = format!("{}\n", self.title);
        for line in lines() {
            let padded = line
                .iter()
                .zip(&widths)
                .enumerate()
                .map(|(column, (cell, &width))| if column < self.words { format!("{cell:width$}") } else { format!("{cell:>width$}") });
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
