//! Lists of samples as text: a CSV file with a path and a label a row, and Tiny-ImageNet's `val_annotations.txt`.

use std::path::Path;

use super::part_of;
use crate::data::Part;
use crate::error::{Error, Result};
use crate::regular_file;
use crate::spelling::one_line;

/// Bytes that a list may have.
pub const MOST_BYTES: u64 = 1 << 28;

/// Names that the first row may give to the columns.
const PATH: [&str; 7] = ["path", "file", "filename", "file_name", "image", "image_path", "filepath"];
const LABEL: [&str; 5] = ["label", "class", "target", "class_name", "category"];
const SPLIT: [&str; 4] = ["split", "set", "subset", "partition"];

/// A row of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The file, from the folder of the list.
    pub path: String,
    /// Its class.
    pub label: String,
    /// The split, with its rank, where the list says one.
    pub part: Option<(Part, usize)>,
    /// Columns of other names that were asked for, as far as the list has them.
    pub others: Vec<Option<String>>,
}

/// The rows of a CSV file: a first row that names its columns (path, label, and split if there is one, in any order), then one a sample.
/// `others` are further columns that are wanted.
///
/// # Errors
/// [`Error::File`] with the row for a column that is missing, an empty cell, an unknown split, or text that is no CSV.
pub fn rows(path: &Path, text: &[u8], others: &[&str]) -> Result<Vec<Row>> {
    let text = unmarked(text);
    let mut reader = reader(text);
    let damaged = |e: csv::Error| Error::file(path, format!("is no CSV file ({}); mend it", told(text, &e)));
    let heads = reader.headers().map_err(damaged)?.clone();
    let place = |names: &[&str]| {
        let mut found = named_so(&heads, names);
        match (found.next(), found.next()) {
            (Some(one), Some(other)) => {
                let [one, other] = [one, other].map(|at| &heads[at]);
                let problem = format!("its first row names a column {one} and a column {other}, and one of them is wanted");
                Err(Error::file(path, format!("{problem}: give the other one another name, or leave it out")))
            }
            (first, _) => Ok(first),
        }
    };
    let needed = |names: &[&str]| {
        let shown: Vec<&str> = heads.iter().take(8).collect();
        let shown = shown.join(",").chars().take(80).collect::<String>().replace(char::is_control, "?");
        let problem = format!("its first row \"{shown}\" names no column {}; begin it with path,label or path,label,split", names[0]);
        place(names)?.ok_or_else(|| Error::file(path, problem))
    };
    let (path_at, label_at, split_at) = (needed(&PATH)?, needed(&LABEL)?, place(&SPLIT)?);
    let others: Vec<Option<usize>> = others.iter().map(|name| place(&[name])).collect::<Result<_>>()?;
    let mut rows = Vec::new();
    let mut record = csv::StringRecord::new();
    while reader.read_record(&mut record).map_err(damaged)? {
        let line = || line_of(text, record.position());
        let cell = |at: usize, what: &str| match record.get(at) {
            Some(cell) if !cell.is_empty() => Ok(cell.to_string()),
            _ => Err(Error::file(path, format!("line {} has no {what}; mend it", line()))),
        };
        let part = match split_at {
            None => None,
            Some(at) => {
                let word = cell(at, "split")?;
                let unknown = || {
                    let word: String = word.chars().take(40).collect::<String>().replace(char::is_control, "?");
                    Error::file(path, format!("line {} has the split \"{word}\"; known are train, val, valid and test", line()))
                };
                Some(part_of(&word).ok_or_else(unknown)?)
            }
        };
        let others = others.iter().map(|at| at.and_then(|at| record.get(at)).filter(|cell| !cell.is_empty()).map(String::from)).collect();
        rows.push(Row { path: cell(path_at, "path")?, label: cell(label_at, "label")?, part, others });
    }
    if rows.is_empty() {
        return Err(Error::file(path, "has no rows below its first one; name a file with samples"));
    }
    Ok(rows)
}

/// A text without the mark that some programs begin UTF-8 with.
fn unmarked(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text)
}

fn reader(text: &[u8]) -> csv::Reader<&[u8]> {
    csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text)
}

/// Places of the columns with one of these names.
fn named_so<'a>(heads: &'a csv::StringRecord, names: &'a [&str]) -> impl Iterator<Item = usize> + 'a {
    let is_so = |head: &str| names.iter().any(|name| head.eq_ignore_ascii_case(name));
    heads.iter().enumerate().filter(move |(_, head)| is_so(head)).map(|(at, _)| at)
}

/// The line of a text, from 1 on, that a record begins in, as an editor counts: the parser itself has not seen the second half of an end
/// of `\r\n`, nor empty lines, when it says where a record begins.
fn line_of(text: &[u8], position: Option<&csv::Position>) -> usize {
    let begin = position.map_or(0, |position| position.byte() as usize).min(text.len());
    let skipped = text[begin..].iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    let before = &text[..begin + skipped];
    let is_end = |at: usize| before[at] == b'\n' || (before[at] == b'\r' && before.get(at + 1) != Some(&b'\n'));
    1 + (0..before.len()).filter(|&at| is_end(at)).count()
}

/// What is wrong with a text, in its lines.
fn told(text: &[u8], error: &csv::Error) -> String {
    match error.kind() {
        csv::ErrorKind::UnequalLengths { pos, expected_len, len } => {
            format!("line {} has {len} cells, and the first row has {expected_len}", line_of(text, pos.as_ref()))
        }
        csv::ErrorKind::Utf8 { pos, .. } => format!("line {} is no UTF-8", line_of(text, pos.as_ref())),
        _ => error.to_string(),
    }
}

/// The error of a file that is not there, with the line of the list at `place` that names it, if a list does.
pub fn named(place: &Path, error: Error) -> Error {
    let (Error::Io { path, .. } | Error::Missing { path, .. }) = &error else { return error };
    let is_list = error.is_missing() && place.is_file() && place.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("csv"));
    let root = place.parent().filter(|root| !root.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let text = if is_list { regular_file::read(place, MOST_BYTES).unwrap_or_default() } else { Vec::new() };
    let text = unmarked(&text);
    let mut reader = reader(text);
    let path_at = reader.headers().ok().and_then(|heads| named_so(heads, &PATH).next());
    let names_it = |row: &csv::StringRecord| path_at.and_then(|at| row.get(at)).is_some_and(|cell| root.join(cell) == *path);
    let Some(row) = reader.records().flatten().find(names_it) else { return error };
    let line = line_of(text, row.position());
    let problem =
        format!("does not exist, and line {line} of {} names it: mend the list, or give --skip-unreadable N", one_line(place.display()));
    Error::missing(path, problem)
}

/// File and class of each line of Tiny-ImageNet's `val_annotations.txt`, which is parted by tabs; what comes behind is a box.
///
/// # Errors
/// [`Error::File`] with the line that has no class, or is no text.
pub fn annotations(path: &Path, text: &[u8]) -> Result<Vec<(String, String)>> {
    let text = std::str::from_utf8(text).map_err(|_| Error::file(path, "is no text; get it again"))?;
    let pair = |(line, text): (usize, &str)| {
        let mut words = text.split('\t').map(str::trim);
        match (words.next(), words.next()) {
            (Some(file), Some(class)) if !file.is_empty() && !class.is_empty() => Ok((file.to_string(), class.to_string())),
            _ => Err(Error::file(path, format!("line {} is no file and class, parted by a tab; get it again", line + 1))),
        }
    };
    text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).map(pair).collect()
}
