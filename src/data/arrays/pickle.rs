//! The pickles that CIFAR's batches for Python are: a dictionary of texts, lists of numbers and texts, and one array of bytes.
//!
//! This is no interpreter of pickles. It knows the few operations that those files consist of; a call is known only where it makes that
//! array, by the name of what it would call, and is never made. Everything else is refused by name.

use std::collections::HashMap;
use std::path::Path;

use crate::error::{Error, Result};

/// Values that a file may have; the largest published one has 200,000.
const MOST_VALUES: usize = 1 << 20;
/// Tuples within tuples.
const DEEPEST: u8 = 3;

/// What a dictionary holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Held<'a> {
    /// Numbers.
    Numbers(Vec<i64>),
    /// Texts.
    Texts(Vec<&'a [u8]>),
    /// `[rows][columns]` bytes.
    Bytes {
        /// Rows.
        rows: usize,
        /// Columns.
        columns: usize,
        /// Row by row.
        bytes: &'a [u8],
    },
}

/// A value on the stack.
#[derive(Clone, Debug)]
enum Value<'a> {
    Mark,
    None,
    Bool(bool),
    Int(i64),
    Text(&'a [u8]),
    /// With how many tuples are within it, itself counted.
    Tuple(Vec<Value<'a>>, u8),
    List(Vec<Value<'a>>),
    Dict(Vec<(&'a [u8], Value<'a>)>),
    Global(Name),
    /// An array before its state is known.
    NoArray,
    /// The type of a byte.
    Byte,
    Array(usize, usize, &'a [u8]),
}

/// What may be named.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Name {
    Reconstruct,
    Ndarray,
    Dtype,
}

const NAMES: [(&str, &str, Name); 4] = [
    ("numpy.core.multiarray", "_reconstruct", Name::Reconstruct),
    ("numpy._core.multiarray", "_reconstruct", Name::Reconstruct),
    ("numpy", "ndarray", Name::Ndarray),
    ("numpy", "dtype", Name::Dtype),
];

/// Reads a file of CIFAR's version for Python: what each key of its dictionary holds. Keys of other values (`batch_label`) are left out.
///
/// # Errors
/// [`Error::File`] for anything that is not laid out as these files are, naming the operation and where it stands.
pub fn read<'a>(path: &Path, bytes: &'a [u8]) -> Result<Vec<(&'a [u8], Held<'a>)>> {
    let mut machine = Machine { bytes, at: 0, stack: Vec::new(), memo: HashMap::new(), values: 0 };
    let pairs = machine.run().map_err(|problem| {
        let at = machine.at;
        Error::file(path, format!("is no batch of CIFAR for Python: {problem} (byte {at}); nothing of a pickle is executed, get it again"))
    })?;
    let held = |value| match value {
        Value::Array(rows, columns, bytes) => Some(Held::Bytes { rows, columns, bytes }),
        Value::List(values) => {
            let numbers: Option<Vec<i64>> = values.iter().map(|value| if let Value::Int(n) = value { Some(*n) } else { None }).collect();
            let text = |value: &Value<'a>| if let Value::Text(text) = value { Some(*text) } else { None };
            let texts = || values.iter().map(text).collect::<Option<Vec<&'a [u8]>>>();
            numbers.map(Held::Numbers).or_else(|| texts().map(Held::Texts))
        }
        _ => None,
    };
    Ok(pairs.into_iter().filter_map(|(key, value)| Some((key, held(value)?))).collect())
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Value<'a>>,
    /// Of containers only that there is one: a file does not say the same list twice.
    memo: HashMap<u32, Option<Value<'a>>>,
    values: usize,
}

type Step<T> = std::result::Result<T, String>;

impl<'a> Machine<'a> {
    fn take(&mut self, n: usize) -> Step<&'a [u8]> {
        let end = self.at.checked_add(n).filter(|&end| end <= self.bytes.len()).ok_or("it ends in the middle")?;
        let bytes = &self.bytes[self.at..end];
        self.at = end;
        Ok(bytes)
    }

    fn number<const N: usize>(&mut self) -> Step<u32> {
        let mut all = [0; 4];
        all[..N].copy_from_slice(self.take(N)?);
        Ok(u32::from_le_bytes(all))
    }

    fn line(&mut self) -> Step<&'a str> {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().take(256).position(|&byte| byte == b'\n').ok_or("a name has no end")?;
        self.at += end + 1;
        std::str::from_utf8(&rest[..end]).map_err(|_| "a name is no text".to_string())
    }

    fn push(&mut self, value: Value<'a>) -> Step<()> {
        self.values += 1;
        if self.values > MOST_VALUES {
            return Err(format!("it has more than {MOST_VALUES} values"));
        }
        self.stack.push(value);
        Ok(())
    }

    fn pop(&mut self) -> Step<Value<'a>> {
        self.stack.pop().filter(|value| !matches!(value, Value::Mark)).ok_or_else(|| "it takes a value that is not there".into())
    }

    /// The values above the last mark.
    fn marked(&mut self) -> Step<Vec<Value<'a>>> {
        let mark = self.stack.iter().rposition(|value| matches!(value, Value::Mark)).ok_or("it goes back to a mark that is not there")?;
        let values = self.stack.split_off(mark + 1);
        self.stack.pop();
        Ok(values)
    }

    fn tuple(&mut self, values: Vec<Value<'a>>) -> Step<()> {
        let depth = values.iter().map(|value| if let Value::Tuple(_, depth) = value { *depth } else { 0 }).max().unwrap_or(0) + 1;
        if depth > DEEPEST || values.iter().any(|value| matches!(value, Value::Dict(_) | Value::List(_))) {
            return Err("it has containers within tuples".into());
        }
        self.push(Value::Tuple(values, depth))
    }

    fn last(&mut self, n: usize) -> Step<Vec<Value<'a>>> {
        let mut values = Vec::with_capacity(n);
        for _ in 0..n {
            values.push(self.pop()?);
        }
        values.reverse();
        Ok(values)
    }

    fn append(&mut self, values: Vec<Value<'a>>) -> Step<()> {
        if !values.iter().all(|value| matches!(value, Value::Int(_) | Value::Text(_))) {
            return Err("a list has something else than numbers and texts".into());
        }
        match self.stack.last_mut() {
            Some(Value::List(list)) => list.extend(values),
            _ => return Err("it appends to what is no list".into()),
        }
        Ok(())
    }

    fn set(&mut self, values: Vec<Value<'a>>) -> Step<()> {
        let Some(Value::Dict(dict)) = self.stack.last_mut() else { return Err("it sets items of what is no dictionary".into()) };
        let mut values = values.into_iter();
        while let Some(key) = values.next() {
            let (Value::Text(key), Some(value)) = (key, values.next()) else { return Err("a dictionary has a key that is no text".into()) };
            if matches!(value, Value::Dict(_) | Value::Tuple(..)) {
                return Err("its dictionary holds containers of containers".into());
            }
            dict.push((key, value));
        }
        Ok(())
    }

    fn global(&mut self) -> Step<()> {
        let (module, name) = (self.line()?, self.line()?);
        let known = NAMES.iter().find(|known| (known.0, known.1) == (module, name));
        let unknown = || format!("it names {}.{}", module.escape_default(), name.escape_default());
        self.push(Value::Global(known.ok_or_else(unknown)?.2))
    }

    /// A call, of which only the value is made that it is known to have.
    fn reduce(&mut self) -> Step<()> {
        let (arguments, callee) = (self.pop()?, self.pop()?);
        let Value::Tuple(arguments, _) = arguments else { return Err("it calls something without arguments".into()) };
        let value = match (&callee, &arguments[..]) {
            (Value::Global(Name::Reconstruct), [Value::Global(Name::Ndarray), Value::Tuple(..), Value::Text(b"b")]) => Value::NoArray,
            (Value::Global(Name::Dtype), [Value::Text(b"u1"), ..]) => Value::Byte,
            (Value::Global(Name::Dtype), [Value::Text(other), ..]) => {
                return Err(format!("it has an array of \"{}\" instead of bytes", other[..other.len().min(20)].escape_ascii()));
            }
            _ => return Err("it calls something else than what makes an array".into()),
        };
        self.push(value)
    }

    fn build(&mut self) -> Step<()> {
        let (state, subject) = (self.pop()?, self.pop()?);
        let Value::Tuple(state, _) = state else { return Err("it has an object with a state of its own".into()) };
        let value = match (subject, &state[..]) {
            (Value::Byte, _) => Value::Byte,
            (Value::NoArray, [Value::Int(_), Value::Tuple(shape, _), Value::Byte, Value::Bool(false), Value::Text(bytes)]) => {
                let [Value::Int(rows), Value::Int(columns)] = shape[..] else { return Err("its array has not two axes".into()) };
                let sizes = usize::try_from(rows).ok().zip(usize::try_from(columns).ok());
                let fits = sizes.filter(|(rows, columns)| rows.checked_mul(*columns) == Some(bytes.len()));
                let (rows, columns) = fits.ok_or(format!("its array of {rows}x{columns} has {} bytes", bytes.len()))?;
                Value::Array(rows, columns, bytes)
            }
            (Value::NoArray, _) => return Err("its array is not laid out row by row in bytes".into()),
            _ => return Err("it has an object of another kind".into()),
        };
        self.push(value)
    }

    fn put(&mut self, key: u32) -> Step<()> {
        let value = self.stack.last().ok_or("it keeps a value that is not there")?;
        let leaf = matches!(value, Value::None | Value::Bool(_) | Value::Int(_) | Value::Text(_) | Value::Global(_) | Value::Byte);
        self.values += 1; // memory is taken here, too
        self.memo.insert(key, leaf.then(|| value.clone()));
        if self.values > MOST_VALUES { Err(format!("it has more than {MOST_VALUES} values")) } else { Ok(()) }
    }

    fn get(&mut self, key: u32) -> Step<()> {
        let value = self.memo.get(&key).cloned().flatten().ok_or("it goes back to a value that is not there")?;
        self.push(value)
    }

    fn run(&mut self) -> Step<Vec<(&'a [u8], Value<'a>)>> {
        loop {
            let operation = self.take(1)?[0];
            match operation {
                0x80 => match self.take(1)?[0] {
                    1..=2 => {}
                    other => return Err(format!("it is written in protocol {other}, and these files in 2")),
                },
                b'}' if self.stack.is_empty() => self.push(Value::Dict(Vec::new()))?,
                b']' => self.push(Value::List(Vec::new()))?,
                b')' => self.tuple(Vec::new())?,
                b'(' => self.push(Value::Mark)?,
                b'N' => self.push(Value::None)?,
                0x88 | 0x89 => self.push(Value::Bool(operation == 0x88))?,
                b'I' => match self.line()? {
                    "00" => self.push(Value::Bool(false))?,
                    "01" => self.push(Value::Bool(true))?,
                    other => {
                        let number = other.parse().map_err(|_| "a number is none".to_string())?;
                        self.push(Value::Int(number))?;
                    }
                },
                b'K' => {
                    let number = self.number::<1>()?;
                    self.push(Value::Int(number.into()))?;
                }
                b'M' => {
                    let number = self.number::<2>()?;
                    self.push(Value::Int(number.into()))?;
                }
                b'J' => {
                    let number = self.number::<4>()?.cast_signed();
                    self.push(Value::Int(number.into()))?;
                }
                b'U' | b'T' | b'X' => {
                    let length = if operation == b'U' { self.number::<1>()? } else { self.number::<4>()? };
                    let text = self.take(length as usize)?;
                    self.push(Value::Text(text))?;
                }
                b'c' => self.global()?,
                b't' => {
                    let values = self.marked()?;
                    self.tuple(values)?;
                }
                0x85..=0x87 => {
                    let values = self.last(usize::from(operation - 0x84))?;
                    self.tuple(values)?;
                }
                b'R' => self.reduce()?,
                b'b' => self.build()?,
                b'a' => {
                    let value = self.pop()?;
                    self.append(vec![value])?;
                }
                b'e' => {
                    let values = self.marked()?;
                    self.append(values)?;
                }
                b's' => {
                    let pair = self.last(2)?;
                    self.set(pair)?;
                }
                b'u' => {
                    let values = self.marked()?;
                    self.set(values)?;
                }
                b'q' => {
                    let key = self.number::<1>()?;
                    self.put(key)?;
                }
                b'r' => {
                    let key = self.number::<4>()?;
                    self.put(key)?;
                }
                b'h' => {
                    let key = self.number::<1>()?;
                    self.get(key)?;
                }
                b'j' => {
                    let key = self.number::<4>()?;
                    self.get(key)?;
                }
                b'.' => {
                    return match (self.stack.pop(), self.stack.is_empty(), self.at == self.bytes.len()) {
                        (Some(Value::Dict(pairs)), true, true) => Ok(pairs),
                        (_, _, false) => Err("it goes on behind its end".into()),
                        _ => Err("it is no dictionary".into()),
                    };
                }
                other => return Err(format!("it has the operation {other:#04x} ('{}')", [other].escape_ascii())),
            }
        }
    }
}
