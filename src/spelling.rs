//! Names in one line: what a name or a path may hold of line breaks and other control characters is spelled out. Names that are known,
//! where another was given.

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

/// Some names, of many the first three.
pub fn first_three(names: &[impl AsRef<str>]) -> String {
    let shown: Vec<String> = names.iter().take(3).map(|name| name.as_ref().escape_debug().to_string()).collect();
    let more = names.len() - shown.len();
    if more == 0 { shown.join(", ") } else { format!("{} and {more} more", shown.join(", ")) }
}

/// What is said of a name that is not among the known ones: the nearest of them, and all.
pub fn unknown(what: &str, name: &str, known: &[&str]) -> String {
    format!("unknown {what} '{}'; {}", one_line(name), instead(name, known))
}

/// What may be given instead of a name: the nearest of the known ones, and all.
pub fn instead(name: &str, known: &[&str]) -> String {
    let meant = nearest(name, known).map_or(String::new(), |known| format!("did you mean '{known}'? "));
    format!("{meant}known are {}", known.join(", "))
}

/// The known name that was probably meant: that with the fewest letters wrong, if they are no more than a third or a single one, and of
/// several one with the same first letter; or else the first that contains what was given.
pub fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let plain = |name: &str| name.chars().filter(|c| !"-_ ".contains(*c)).flat_map(char::to_lowercase).take(MOST).collect::<String>();
    let wanted = plain(name);
    let letters = wanted.chars().count();
    let most = (letters / 3).max(usize::from(letters > 1));
    let wrong = |known: &str| strsim::damerau_levenshtein(&wanted, &plain(known));
    let near = known.iter().copied().min_by_key(|known| (wrong(known), known.chars().next() != wanted.chars().next()));
    let whole = || known.iter().copied().find(|known| letters > 2 && plain(known).contains(&wanted));
    near.filter(|known| wrong(known) <= most).or_else(whole)
}

/// Letters of a name that are compared: more than any known one has.
const MOST: usize = 64;

#[cfg(test)]
mod tests {
    use super::{nearest, one_line, unknown};

    #[test]
    fn the_nearest_name_is_the_one_that_was_meant() {
        let known = ["fashion-mnist-3k", "mnist", "fashion-mnist", "cifar10", "cifar100", "preact-resnet18", "lr", "alpha", "vth_bound"];
        let cases = [
            ("fashon-mnist", Some("fashion-mnist")),
            ("CIFAR-10", Some("cifar10")),
            ("mnsit", Some("mnist")),
            ("resnet18", Some("preact-resnet18")),
            ("cifar", Some("cifar10")),
            ("vth-bound", Some("vth_bound")),
            ("aplha", Some("alpha")),
            ("lrr", Some("lr")),
            ("lf", Some("lr")),
            ("kmnist-balanced", None),
            ("x", None),
            ("", None),
        ];
        for (name, expected) in cases {
            assert_eq!(nearest(name, &known), expected, "{name}");
        }
        assert_eq!((nearest("lf", &["if", "lif"]), nearest("fi", &["if", "lif"])), (Some("lif"), Some("if")));
        assert_eq!(nearest(&"m".repeat(1 << 20), &known), None);
        assert_eq!(unknown("network", "a\nb", &["c", "d"]), "unknown network 'a\\nb'; known are c, d");
        assert_eq!(unknown("data set", "minst", &["mnist", "x"]), "unknown data set 'minst'; did you mean 'mnist'? known are mnist, x");
    }

    #[test]
    fn a_name_is_one_line() {
        assert_eq!(one_line("ä b|\u{1f600}"), "ä b|\u{1f600}");
        assert_eq!(one_line("a\nb\tc\r\u{1b}[2J\u{202e}"), "a\\nb\\tc\\u000d\\u001b[2J\\u202e");
    }
}
