//! Loads, stores and atomics: addresses by state space (PTX ISA 5.1, 9.7.9), checked where it can be done here.

use super::emit::Emitter;
use super::instructions::Type;
use super::operands::members;
use super::parse::{Class, Fallible, Instruction};

impl Emitter<'_> {
    /// `[base+offset]`: base, offset.
    fn split_address(operand: &str) -> Fallible<(String, i64)> {
        let inside = operand.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).ok_or("no address")?;
        match inside.split_once('+') {
            Some((base, offset)) => Ok((base.trim().into(), offset.trim().parse().map_err(|_| format!("offset {offset}"))?)),
            None => Ok((inside.trim().into(), 0)),
        }
    }

    /// A pointer into shared memory, checked.
    pub fn shared_address(&mut self, operand: &str, bytes: u32) -> Fallible<String> {
        let (base, offset) = Self::split_address(operand)?;
        let base = if self.shared(&base).is_some() {
            self.symbols.insert(base.clone());
            base
        } else {
            match self.register(&base)? {
                (name, Class::Int(32)) => name,
                (name, Class::Int(64)) => format!("static_cast<uint32_t>({name})"),
                (name, class) => return Err(format!("{name} ({class:?}) as an address")),
            }
        };
        Ok(format!("ptx::shared({base} + {offset}, {bytes})"))
    }

    /// A 64-bit address, of global memory or generic.
    pub fn global_address(&mut self, operand: &str) -> Fallible<String> {
        let (base, offset) = Self::split_address(operand)?;
        match self.register(&base)? {
            (name, Class::Int(64)) => Ok(format!("ptx::global({name} + {offset})")),
            (name, class) => Err(format!("{name} ({class:?}) as an address")),
        }
    }

    /// A pointer into the arguments: at a known place, or at an address that `mov` took.
    fn parameter_address(&mut self, operand: &str, bytes: u32) -> Fallible<String> {
        let (base, offset) = Self::split_address(operand)?;
        if base.starts_with('%') {
            let (name, _) = self.register(&base)?;
            return Ok(format!("ptx::parameter({name} + {offset})"));
        }
        let at = self.kernel.parameters.iter().position(|p| p.name == base).ok_or_else(|| format!("{base} is no parameter"))?;
        let size = self.kernel.parameters[at].size;
        if offset < 0 || offset as u32 + bytes > size {
            return Err(format!("bytes {offset}..+{bytes} of a parameter of {size}"));
        }
        Ok(format!("ptx::parameter(reinterpret_cast<uint64_t>(arguments[{at}]) + {offset})"))
    }

    /// Space (empty: generic), vector width, type of a load or store; `.nc` is said by the first.
    fn access<'w>(words: &[&'w str]) -> Fallible<(bool, &'w str, usize, Type)> {
        let mut rest = words;
        let mut space = "";
        if let Some(&first) = rest.first().filter(|word| ["global", "shared", "param"].contains(word)) {
            space = first;
            rest = &rest[1..];
        }
        // .cg: past the first cache, which nothing here has.
        if rest.first() == Some(&"cg") && space == "global" {
            rest = &rest[1..];
        }
        let is_nc = rest.first() == Some(&"nc");
        if is_nc {
            rest = &rest[1..];
        }
        let width = match rest.first() {
            Some(&"v2") => 2,
            Some(&"v4") => 4,
            _ => 1,
        };
        if width > 1 {
            rest = &rest[1..];
        }
        match rest {
            [kind] => Ok((is_nc, space, width, Type::of(kind).ok_or("type")?)),
            _ => Err(format!("modifiers that are not modelled: {rest:?}")),
        }
    }

    fn pointer(&mut self, space: &str, operand: &str, bytes: u32) -> Fallible<String> {
        match space {
            "shared" => self.shared_address(operand, bytes),
            "param" => self.parameter_address(operand, bytes),
            _ => self.global_address(operand),
        }
    }

    pub fn load(&mut self, i: &Instruction) -> Fallible<String> {
        let words: Vec<&str> = i.opcode.split('.').collect();
        let (is_nc, space, width, kind) = Self::access(&words[1..])?;
        let pointer = self.pointer(space, i.operand(1)?, kind.bits() / 8 * width as u32)?;
        let how = if space.is_empty() {
            "generic"
        } else if is_nc {
            "nc"
        } else {
            space
        };
        if width == 1 {
            return self.write_of_width(i.operand(0)?, &format!("PTX_LD({how}, {pointer}, {})", kind.cpp()), kind, true);
        }
        let mut text = format!("{{ const auto x = PTX_LD({how}, {pointer}, ptx::Vector<{}, {width}>); ", kind.cpp());
        let parts = members(i.operand(0)?);
        if parts.len() != width {
            return Err("as many registers as elements".into());
        }
        for (k, register) in parts.into_iter().enumerate() {
            text.push_str(&self.write_of_width(register, &format!("x.of[{k}]"), kind, true)?);
        }
        Ok(text + " }")
    }

    pub fn store(&mut self, i: &Instruction) -> Fallible<String> {
        let words: Vec<&str> = i.opcode.split('.').collect();
        let (_, space, width, kind) = Self::access(&words[1..])?;
        if space == "param" {
            return Err("a store into parameters".into());
        }
        let pointer = self.pointer(space, i.operand(0)?, kind.bits() / 8 * width as u32)?;
        let how = if space.is_empty() { "generic" } else { space };
        let parts: Vec<String> = members(i.operand(1)?).into_iter().map(String::from).collect();
        if parts.len() != width {
            return Err("as many registers as elements".into());
        }
        let mut values = Vec::new();
        for register in &parts {
            values.push(self.read_of_width(register, kind, true)?);
        }
        let kind = kind.cpp();
        Ok(if width == 1 {
            format!("PTX_ST({how}, {pointer}, ({}), {kind});", values[0])
        } else {
            format!("PTX_ST({how}, {pointer}, (ptx::Vector<{kind}, {width}>{{{{{}}}}}), ptx::Vector<{kind}, {width}>);", values.join(", "))
        })
    }

    /// 9.7.13.5 atom, 9.7.13.6 red: relaxed, of the whole device.
    pub fn atomic(&mut self, i: &Instruction) -> Fallible<String> {
        let words: Vec<&str> = i.opcode.split('.').collect();
        let (space, operation, kind) = match words[1..] {
            [space @ ("global" | "shared"), operation, kind] => (space, operation, kind),
            [operation, kind] => ("", operation, kind),
            _ => return Err("modifiers that are not modelled".into()),
        };
        let kind = Type::of(kind).ok_or("type")?;
        let is_known = match operation {
            "add" => matches!(kind, Type::U(_) | Type::S(32)),
            "min" | "max" => matches!(kind, Type::U(_) | Type::S(_)),
            "and" | "or" | "xor" | "exch" | "cas" => matches!(kind, Type::B(_)),
            _ => false,
        };
        if !is_known {
            return Err("not modelled".into());
        }
        let skip = usize::from(words[0] == "atom");
        let pointer = self.pointer(space, i.operand(skip)?, kind.bits() / 8)?;
        let mut arguments = vec![pointer];
        for operand in &i.operands[skip + 1..] {
            arguments.push(self.read(operand, kind)?);
        }
        let value = format!("ptx::atom_{operation}<{}>({})", kind.cpp(), arguments.join(", "));
        if skip == 1 { self.write(i.operand(0)?, &value, kind) } else { Ok(format!("(void){value};")) }
    }
}
