//! PTX text as nvcc prints it: modules, kernels, statements. PTX ISA 4 (syntax), 5.1 (state spaces), 11 (directives).
//!
//! What is not known is an error: a directive, a statement, a space that no kernel of the project has used so far.

use std::collections::{BTreeMap, HashSet};

#[derive(Debug, Clone)]
pub struct Parameter {
    pub name: String,
    /// Bytes of one value, or of the whole struct.
    pub size: u32,
    pub align: u32,
    /// Declared as a pointer (`.ptr`, by NVVM of sm_100 and later).
    pub is_pointer: bool,
    /// May hold addresses: a 64-bit number, or a struct aligned to 8.
    pub may_hold_pointers: bool,
}

#[derive(Debug, Clone)]
pub struct SharedArray {
    pub name: String,
    pub align: u32,
    /// None for `.extern .shared x[]`, the dynamic shared memory.
    pub bytes: Option<u32>,
}

/// Class of a declared register: `pred`, `b16`, `b32`, `b64`, `f32`, `f64`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    Pred,
    Int(u32),
    Float(u32),
}

#[derive(Debug, Clone)]
pub enum Statement {
    Label(String),
    /// `{` and `}` of an inner scope.
    Open,
    Close,
    /// Registers by full name of a scope: `.reg .b32 %temp;`
    Register(String, Class),
    Instruction(Instruction),
}

#[derive(Debug, Clone)]
pub struct Instruction {
    /// `@%p1`, `@!%p1`
    pub guard: Option<(bool, String)>,
    pub opcode: String,
    pub operands: Vec<String>,
    pub line: usize,
    /// `.loc`: number of the file, line.
    pub source: (u32, u32),
}

impl Instruction {
    pub fn operand(&self, number: usize) -> Fallible<&str> {
        self.operands.get(number).map(String::as_str).ok_or_else(|| format!("{} operands", self.operands.len()))
    }
}

#[derive(Debug)]
pub struct Kernel {
    pub name: String,
    pub parameters: Vec<Parameter>,
    pub block: u32,
    /// Name without number, class, how many: `%r<10>` is ("%r", b32, 10).
    pub registers: Vec<(String, Class, u32)>,
    pub shared: Vec<SharedArray>,
    pub body: Vec<Statement>,
}

#[derive(Debug, Default)]
pub struct Module {
    pub kernels: Vec<Kernel>,
    pub shared: Vec<SharedArray>,
    pub files: BTreeMap<u32, String>,
    /// The architecture that it was made for, as 90.
    pub target: u32,
}

pub type Fallible<T> = Result<T, String>;

pub fn class_of(word: &str) -> Option<Class> {
    Some(match word {
        ".pred" => Class::Pred,
        ".b16" | ".u16" | ".s16" => Class::Int(16),
        ".b32" | ".u32" | ".s32" => Class::Int(32),
        ".b64" | ".u64" | ".s64" => Class::Int(64),
        ".f32" => Class::Float(32),
        ".f64" => Class::Float(64),
        _ => return None,
    })
}

fn size_of(word: &str) -> Option<u32> {
    word.trim_start_matches(['.', 'b', 'u', 's', 'f']).parse::<u32>().ok().map(|bits| bits / 8)
}

/// `.param .align 8 .b8 name[144]`, `.param .u64 name`
fn parameter(text: &str) -> Fallible<Parameter> {
    let wrong = || format!("a parameter that is not understood: {text}");
    let words: Vec<&str> = text.split_whitespace().collect();
    match words.as_slice() {
        [".param", ".align", align, ".b8", array] => {
            let (name, size) = array.trim_end_matches(']').split_once('[').ok_or_else(wrong)?;
            let align = align.parse().map_err(|_| wrong())?;
            Ok(Parameter {
                name: name.into(),
                size: size.parse().map_err(|_| wrong())?,
                align,
                is_pointer: false,
                may_hold_pointers: align >= 8,
            })
        }
        [".param", kind, name] => {
            let size = size_of(kind).ok_or_else(wrong)?;
            Ok(Parameter {
                name: (*name).into(),
                size,
                align: size,
                is_pointer: false,
                may_hold_pointers: *kind == ".u64" || *kind == ".b64",
            })
        }
        [".param", ".u64", ".ptr", rest @ .., name]
            if rest.iter().all(|word| [".align", ".global"].contains(word) || word.parse::<u32>().is_ok()) =>
        {
            Ok(Parameter { name: (*name).into(), size: 8, align: 8, is_pointer: true, may_hold_pointers: true })
        }
        _ => Err(wrong()),
    }
}

/// `.shared .align 128 .b8 name[4096]`, `.extern .shared .align 128 .b8 name[]`
fn shared_array(text: &str) -> Fallible<SharedArray> {
    let wrong = || format!("a shared array that is not understood: {text}");
    let words: Vec<&str> = text.trim_start_matches(".extern ").split_whitespace().collect();
    let (align, kind, name) = match words.as_slice() {
        [".shared", ".align", align, kind, name] => (align.parse().map_err(|_| wrong())?, *kind, *name),
        [".shared", kind, name] => (size_of(kind).ok_or_else(wrong)?, *kind, *name),
        _ => return Err(wrong()),
    };
    let element = size_of(kind).ok_or_else(wrong)?;
    let (name, bytes) = match name.trim_end_matches(']').split_once('[') {
        Some((name, "")) => (name, None),
        Some((name, count)) => (name, Some(count.parse::<u32>().map_err(|_| wrong())? * element)),
        None => (name, Some(element)),
    };
    Ok(SharedArray { name: name.into(), align, bytes })
}

/// Operands: commas outside of braces and brackets separate.
fn operands(text: &str) -> Vec<String> {
    let (mut depth, mut all, mut one) = (0, Vec::new(), String::new());
    for c in text.chars() {
        match c {
            '{' | '[' | '(' => depth += 1,
            '}' | ']' | ')' => depth -= 1,
            _ => {}
        }
        if c == ',' && depth == 0 {
            all.push(one.trim().to_string());
            one.clear();
        } else {
            one.push(c);
        }
    }
    if !one.trim().is_empty() {
        all.push(one.trim().to_string());
    }
    all
}

fn instruction(text: &str, line: usize, source: (u32, u32)) -> Instruction {
    let mut rest = text.trim();
    let mut guard = None;
    if let Some(after) = rest.strip_prefix('@') {
        let (name, behind) = after.split_once(char::is_whitespace).unwrap_or((after, ""));
        guard = Some((name.starts_with('!'), name.trim_start_matches('!').to_string()));
        rest = behind.trim();
    }
    let (opcode, arguments) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    Instruction { guard, opcode: opcode.into(), operands: operands(arguments), line, source }
}

/// Parts of a line that `;` ends, and braces of scopes as parts of their own.
fn parts(line: &str) -> Vec<String> {
    let (mut all, mut one) = (Vec::new(), String::new());
    for c in line.chars() {
        let is_scope = matches!(c, '{' | '}') && one.trim().is_empty();
        if is_scope {
            all.push(c.to_string());
            one.clear();
        } else if c == ';' {
            all.push(format!("{};", one.trim()));
            one.clear();
        } else {
            one.push(c);
        }
    }
    if !one.trim().is_empty() {
        all.push(one.trim().to_string());
    }
    all
}

pub fn module(text: &str) -> Fallible<Module> {
    let mut module = Module::default();
    let mut lines = text.lines().enumerate().map(|(i, line)| (i + 1, line.split("//").next().unwrap_or("").trim_end_matches('\0').trim()));
    while let Some((number, line)) = lines.next() {
        let at = |problem: String| format!("line {number}: {problem}");
        let first = line.split_whitespace().next().unwrap_or("");
        match first {
            "" | ".version" | ".address_size" => {}
            ".target" => {
                let digits: String = line.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
                module.target = digits.parse().map_err(|_| at(line.into()))?;
            }
            ".file" => {
                let mut words = line.splitn(3, char::is_whitespace);
                let number = words.nth(1).and_then(|n| n.parse().ok()).ok_or_else(|| at(line.into()))?;
                module.files.insert(number, words.next().unwrap_or("").split('"').nth(1).unwrap_or("").into());
            }
            ".section" => {
                for (_, line) in lines.by_ref() {
                    if line == "}" {
                        break;
                    }
                }
            }
            ".shared" | ".extern" => module.shared.push(shared_array(line.trim_end_matches(';')).map_err(at)?),
            ".visible" | ".entry" | ".weak" if line.contains(".entry ") => {
                let mut kernel = kernel_of_header(line, &mut lines).map_err(at)?;
                read_body(&mut kernel, &mut lines)?;
                module.kernels.push(kernel);
            }
            _ => return Err(at(format!("a directive that is not understood: {line}"))),
        }
    }
    Ok(module)
}

/// A kernel without its body, from the lines to the brace that opens it.
fn kernel_of_header<'a>(head: &str, lines: &mut impl Iterator<Item = (usize, &'a str)>) -> Fallible<Kernel> {
    let mut header = head.to_string();
    while !header.ends_with('{') {
        let (_, line) = lines.next().ok_or("a kernel without a body")?;
        header.push(' ');
        header.push_str(line);
    }
    let (signature, rest) = header.split_once(')').unwrap_or((&header, ""));
    let (name, inside) = signature.split_once('(').ok_or("a kernel without parameters in parentheses")?;
    let name = name.rsplit(' ').find(|word| !word.is_empty()).unwrap_or_default().to_string();
    let texts = inside.split(',').map(str::trim).filter(|text| !text.is_empty());
    let parameters: Fallible<Vec<Parameter>> = texts.map(parameter).collect();
    let mut block = 1024;
    if let Some((_, bounds)) = rest.split_once(".maxntid") {
        block = bounds.split(['.', '{']).next().unwrap_or("").split(',').filter_map(|n| n.trim().parse::<u32>().ok()).product();
    }
    Ok(Kernel { name, parameters: parameters?, block, registers: Vec::new(), shared: Vec::new(), body: Vec::new() })
}

/// The statements of a body go into the kernel, to the brace that closes it.
fn read_body<'a>(kernel: &mut Kernel, lines: &mut impl Iterator<Item = (usize, &'a str)>) -> Fallible<()> {
    let (mut depth, mut source, mut seen) = (1, (0, 0), HashSet::new());
    for (number, line) in lines {
        for part in parts(line) {
            let at = |problem: String| format!("line {number}: {problem}");
            let first = part.split_whitespace().next().unwrap_or("");
            match first {
                "{" => {
                    depth += 1;
                    kernel.body.push(Statement::Open);
                }
                "}" => {
                    depth -= 1;
                    if depth == 0 {
                        return Ok(());
                    }
                    kernel.body.push(Statement::Close);
                }
                ".loc" => {
                    let mut numbers = part.split_whitespace().skip(1).filter_map(|n| n.parse::<u32>().ok());
                    source = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
                }
                ".pragma" => {}
                ".reg" => {
                    let words: Vec<&str> = part.trim_end_matches(';').split_whitespace().collect();
                    let class = words.get(1).and_then(|word| class_of(word)).ok_or_else(|| at(part.clone()))?;
                    for name in words.get(2..).unwrap_or_default().concat().split(',') {
                        match name.split_once('<') {
                            Some((name, count)) => {
                                let count = count.trim_end_matches('>').parse().map_err(|_| at(part.clone()))?;
                                kernel.registers.push((name.into(), class, count));
                            }
                            None => kernel.body.push(Statement::Register(name.into(), class)),
                        }
                    }
                }
                ".shared" => kernel.shared.push(shared_array(part.trim_end_matches(';')).map_err(at)?),
                _ if first.ends_with(':') => {
                    let label = first.trim_end_matches(':').to_string();
                    if !seen.insert(label.clone()) {
                        return Err(at(format!("label {label} twice")));
                    }
                    kernel.body.push(Statement::Label(label));
                }
                _ if first.starts_with('.') || !part.ends_with(';') => {
                    return Err(at(format!("a statement that is not understood: {part}")));
                }
                _ => kernel.body.push(Statement::Instruction(instruction(part.trim_end_matches(';'), number, source))),
            }
        }
    }
    Err(format!("kernel {}: it does not end", kernel.name))
}
