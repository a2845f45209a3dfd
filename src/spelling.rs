//! Names in one line: what a name or a path may hold of line breaks and other control characters is spelled out.

use std::fmt::Display;

/// Whether a terminal shows a character where it stands. Line breaks and tabs are for [`one_line`]: a text may have them, a name may not.
pub fn is_plain(c: char) -> bool {
    c == '\n' || c == '\t' || !(c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'))
}

/// A character as JSON, too, would write it.
pub fn escaped(c: char) -> String {
    match c {
        '\n' => "\\n".into(),
        '\t' => "\\t".into(),
        c => format!("\\u{:04x}", u32::from(c)),
    }
}

/// A name, a path or a cell of a table, in which nothing begins a new line, moves a cursor or turns the direction of writing.
pub fn one_line(name: impl Display) -> String {
    let name = name.to_string();
    let is_of_line = |c: char| is_plain(c) && c != '\n' && c != '\t';
    if name.chars().all(is_of_line) {
        return name;
    }
    name.chars().map(|c| if is_of_line(c) { c.to_string() } else { escaped(c) }).collect()
}

#[cfg(test)]
mod tests {
    use super::one_line;

    #[test]
    fn a_name_is_one_line() {
        assert_eq!(one_line("ä b|\u{1f600}"), "ä b|\u{1f600}");
        assert_eq!(one_line("a\nb\tc\r\u{1b}[2J\u{202e}"), "a\\nb\\tc\\u000d\\u001b[2J\\u202e");
    }
}
