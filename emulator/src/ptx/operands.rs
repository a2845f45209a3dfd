//! Operands: registers with their classes, special registers, literals, and how a value gets from one type to another.

use super::emit::Emitter;
use super::instructions::Type;
use super::parse::{Class, Fallible, SharedArray};

impl Emitter<'_> {
    pub fn shared(&self, name: &str) -> Option<&SharedArray> {
        self.kernel.shared.iter().chain(&self.module.shared).find(|array| array.name == name)
    }

    fn class(&self, name: &str) -> Option<Class> {
        if let Some(class) = self.scopes.iter().rev().find_map(|scope| scope.get(name)) {
            return Some(*class);
        }
        let (stem, number) = split_number(name)?;
        self.kernel.registers.iter().find(|(of, _, count)| of == stem && number < *count).map(|(_, class, _)| *class)
    }

    /// C++ name and class of a register.
    pub fn register(&mut self, name: &str) -> Fallible<(String, Class)> {
        let class = self.class(name).ok_or_else(|| format!("{name} is no register"))?;
        if self.scopes.iter().any(|scope| scope.contains_key(name)) {
            return Ok((scoped(name), class));
        }
        let cpp = name.trim_start_matches('%').to_string();
        self.used.insert((cpp_class(class).into(), cpp.clone()));
        Ok((cpp, class))
    }

    /// A source operand as a value of the type.
    pub fn read(&mut self, operand: &str, wanted: Type) -> Fallible<String> {
        self.read_of_width(operand, wanted, false)
    }

    /// `wider`: the register may be wider, and its low bits count (9.4.1: st, cvt).
    pub fn read_of_width(&mut self, operand: &str, wanted: Type, wider: bool) -> Fallible<String> {
        if let Some(special) = special_register(operand) {
            return if wanted.bits() == 32 && !matches!(wanted, Type::F(_)) {
                Ok(special.into())
            } else {
                Err(format!("{operand} as {wanted:?}"))
            };
        }
        if !operand.starts_with('%') {
            return literal(operand, wanted);
        }
        let (name, class) = self.register(operand)?;
        let name = self.looked_at(operand, name);
        let mismatch = Err(format!("{operand} ({class:?}) as {wanted:?}"));
        match (class, wanted) {
            (Class::Pred, Type::Pred) => Ok(name),
            (Class::Int(bits), Type::B(b) | Type::U(b) | Type::S(b)) if bits == b || (wider && bits > b) => {
                Ok(if bits == b { name } else { format!("static_cast<{}>({name})", wanted.cpp()) })
            }
            (Class::Float(bits), Type::F(b)) if bits == b => Ok(name),
            (Class::Float(bits), Type::B(b)) if bits == b => Ok(format!("ptx::bits({name})")),
            (Class::Int(bits), Type::F(b)) if bits == b => Ok(format!("ptx::f{b}_of({name})")),
            _ => mismatch,
        }
    }

    /// `operand = value`, the value of this type.
    pub fn write(&mut self, operand: &str, value: &str, of: Type) -> Fallible<String> {
        self.write_of_width(operand, value, of, false)
    }

    /// `wider`: the register may be wider, and the value is extended by its sign or zeros (9.4.1: ld, cvt).
    pub fn write_of_width(&mut self, operand: &str, value: &str, of: Type, wider: bool) -> Fallible<String> {
        if operand == "_" {
            return Ok(format!("(void)({value});"));
        }
        let (name, class) = self.register(operand)?;
        match (class, of) {
            (Class::Pred, Type::Pred) => Ok(format!("{name} = {value};")),
            (Class::Int(bits), Type::B(b) | Type::U(b) | Type::S(b)) if bits == b || (wider && bits > b) => {
                let text = format!("{name} = static_cast<{}>({value});", cpp_class(class));
                Ok(self.written(operand, &name, text))
            }
            (Class::Float(bits), Type::F(b)) if bits == b => Ok(format!("{name} = {value};")),
            (Class::Float(bits), Type::B(b)) if bits == b => Ok(format!("{name} = ptx::f{b}_of({value});")),
            (Class::Int(bits), Type::F(b)) if bits == b => Ok(format!("{name} = ptx::bits({value});")),
            _ => Err(format!("{operand} ({class:?}) gets {of:?}")),
        }
    }
}

pub fn cpp_class(class: Class) -> &'static str {
    match class {
        Class::Pred => "bool",
        Class::Int(16) => "uint16_t",
        Class::Int(32) => "uint32_t",
        Class::Int(_) => "uint64_t",
        Class::Float(32) => "float",
        Class::Float(_) => "double",
    }
}

/// What a register of this C++ class holds before it is written: nothing that a right program could count on.
pub fn poison(class: &str) -> String {
    match class {
        "bool" => "true".into(),
        "float" | "double" => "-1.5e30".into(),
        _ => format!("static_cast<{class}>(0xdededededededede)"),
    }
}

/// `{%r1, %r2}` as its members.
pub fn members(operand: &str) -> Vec<&str> {
    operand.trim_start_matches('{').trim_end_matches('}').split(',').map(str::trim).collect()
}

/// Of a register of an inner scope.
pub fn scoped(name: &str) -> String {
    format!("{}_", name.trim_start_matches('%'))
}

/// `%r12`: `%r`, 12.
fn split_number(name: &str) -> Option<(&str, u32)> {
    let digits = name.len() - name.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    let (stem, number) = name.split_at(name.len() - digits);
    number.parse().ok().map(|number| (stem, number))
}

/// PTX ISA 10.
fn special_register(name: &str) -> Option<&'static str> {
    Some(match name {
        "%tid.x" => "standin::current->index.x",
        "%tid.y" => "standin::current->index.y",
        "%tid.z" => "standin::current->index.z",
        "%ntid.x" => "standin::current->block->size.x",
        "%ntid.y" => "standin::current->block->size.y",
        "%ntid.z" => "standin::current->block->size.z",
        "%ctaid.x" => "standin::current->block->index.x",
        "%ctaid.y" => "standin::current->block->index.y",
        "%ctaid.z" => "standin::current->block->index.z",
        "%nctaid.x" => "standin::current->block->grid.x",
        "%nctaid.y" => "standin::current->block->grid.y",
        "%nctaid.z" => "standin::current->block->grid.z",
        "%laneid" => "standin::current->lane",
        _ => return None,
    })
}

/// 4.5: integers, and floats by their bits.
fn literal(text: &str, wanted: Type) -> Fallible<String> {
    let wrong = || format!("{text} as {wanted:?}");
    match wanted {
        Type::F(32) => text.strip_prefix("0f").map(|bits| format!("ptx::f32_of(0x{bits}u)")).ok_or_else(wrong),
        Type::F(_) => text.strip_prefix("0d").map(|bits| format!("ptx::f64_of(0x{bits}ull)")).ok_or_else(wrong),
        Type::B(32) if text.starts_with("0f") => Ok(format!("0x{}u", &text[2..])),
        Type::Pred => match text {
            "0" => Ok("false".into()),
            "1" | "-1" => Ok("true".into()),
            _ => Err(wrong()),
        },
        _ => {
            let number = text.trim_end_matches('U');
            let value: i128 = match number.strip_prefix("0x") {
                Some(digits) => i128::from_str_radix(digits, 16).map_err(|_| wrong())?,
                None => number.parse().map_err(|_| wrong())?,
            };
            let bits = wanted.bits();
            if value < -(1i128 << (bits - 1)) || value >= 1i128 << bits {
                return Err(wrong());
            }
            Ok(format!("static_cast<{}>(0x{:x}u{})", wanted.cpp(), value & ((1i128 << bits) - 1), if bits > 32 { "ll" } else { "" }))
        }
    }
}
