//! Which instructions are known, and the types of their operands. Each name is a function of `runtime/`; what it does is said there.
//!
//! Loads, stores, branches, and whatever concerns a warp or a block have forms of their own in `memory.rs`, `warp.rs` and `products.rs`.

/// An operand's type as the instruction names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    Pred,
    B(u32),
    U(u32),
    S(u32),
    F(u32),
}

impl Type {
    pub fn of(word: &str) -> Option<Type> {
        let bits = || word[1..].parse::<u32>().ok().filter(|bits| [8, 16, 32, 64].contains(bits));
        Some(match word.chars().next()? {
            'p' if word == "pred" => Type::Pred,
            'b' => Type::B(bits()?),
            'u' => Type::U(bits()?),
            's' => Type::S(bits()?),
            'f' => Type::F(bits().filter(|&bits| bits >= 32)?),
            _ => return None,
        })
    }

    pub fn bits(self) -> u32 {
        match self {
            Type::Pred => 1,
            Type::B(bits) | Type::U(bits) | Type::S(bits) | Type::F(bits) => bits,
        }
    }

    pub fn is_integer(self) -> bool {
        matches!(self, Type::U(_) | Type::S(_))
    }

    pub fn cpp(self) -> String {
        match self {
            Type::Pred => "bool".into(),
            Type::B(bits) | Type::U(bits) => format!("uint{bits}_t"),
            Type::S(bits) => format!("int{bits}_t"),
            Type::F(32) => "float".into(),
            Type::F(_) => "double".into(),
        }
    }
}

/// `result = function(sources)`.
pub struct Form {
    pub function: String,
    pub result: Type,
    pub sources: Vec<Type>,
    /// The function also takes the carry flag (9.7.2).
    pub carry: bool,
}

/// Why an instruction is refused that is known well enough, but means what nobody wants here.
pub fn refusal(opcode: &str) -> Option<&'static str> {
    let words: Vec<&str> = opcode.split('.').collect();
    match words.as_slice() {
        ["add" | "sub" | "mul", "f32" | "f64"] => Some("no .rn: ptxas may fuse it into a multiply-add (compiled without --fmad=false)"),
        [.., "f32" | "f64"] if words.contains(&"approx") || words.contains(&"ftz") => {
            Some("approximate or flushing: compiled with --use_fast_math?")
        }
        _ => None,
    }
}

/// A plain instruction's form, or none for one that is not known.
pub fn form(opcode: &str) -> Option<Form> {
    use Type::*;
    let words: Vec<&str> = opcode.split('.').collect();
    let last = Type::of(words[words.len() - 1]);
    let make = |result: Type, sources: Vec<Type>| Some(Form { function: opcode.replace('.', "_"), result, sources, carry: false });
    let twice = |t: Type| match t {
        U(bits) => U(2 * bits),
        S(bits) => S(2 * bits),
        other => other,
    };
    match (words.as_slice(), last) {
        // 9.7.1 integer arithmetic
        (["add" | "sub" | "div" | "rem" | "min" | "max", _], Some(t)) if t.is_integer() && t.bits() >= 16 => make(t, vec![t, t]),
        (["mul", "lo" | "hi", _], Some(t)) if t.is_integer() => make(t, vec![t, t]),
        (["mul", "wide", _], Some(t)) if t.is_integer() && t.bits() <= 32 => make(twice(t), vec![t, t]),
        (["mad", "lo" | "hi", _], Some(t)) if t.is_integer() => make(t, vec![t, t, t]),
        (["mad", "wide", _], Some(t)) if t.is_integer() && t.bits() <= 32 => make(twice(t), vec![t, t, twice(t)]),
        (["abs" | "neg", _], Some(S(bits))) => make(S(bits), vec![S(bits)]),
        (["clz" | "popc", _], Some(B(bits))) if bits >= 32 => make(U(32), vec![B(bits)]),
        (["brev", _], Some(B(bits))) if bits >= 32 => make(B(bits), vec![B(bits)]),
        (["bfe", _], Some(t)) if t.is_integer() && t.bits() >= 32 => make(t, vec![t, U(32), U(32)]),
        (["bfi", _], Some(B(bits))) if bits >= 32 => make(B(bits), vec![B(bits), B(bits), U(32), U(32)]),
        // 9.7.2 extended precision
        (["add" | "addc" | "sub" | "subc", "cc", _] | ["addc" | "subc", _], Some(t)) if t.is_integer() && t.bits() >= 32 => {
            make(t, vec![t, t]).map(|form| Form { carry: true, ..form })
        }
        // 9.7.3 and 9.7.5 floating point; the rounding is always said
        (["add" | "sub" | "mul" | "div", "rn", _], Some(F(bits))) => make(F(bits), vec![F(bits); 2]),
        (["fma", "rn", "bf16x2"], _) => make(B(32), vec![B(32); 3]),
        (["fma", "rn", _], Some(F(bits))) => make(F(bits), vec![F(bits); 3]),
        (["rcp" | "sqrt", "rn", _], Some(F(bits))) => make(F(bits), vec![F(bits)]),
        (["rcp", "approx", "ftz", "f64"], _) => make(F(64), vec![F(64)]),
        (["abs" | "neg", _], Some(F(bits))) => make(F(bits), vec![F(bits)]),
        (["min" | "max", _], Some(F(bits))) => make(F(bits), vec![F(bits); 2]),
        // 9.7.6 comparison and selection
        (["setp", compare, _], Some(t)) => {
            let known = match t {
                B(_) => ["eq", "ne"].contains(compare),
                U(_) | S(_) => ["eq", "ne", "lt", "le", "gt", "ge"].contains(compare),
                F(_) => ["eq", "ne", "lt", "le", "gt", "ge", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan"].contains(compare),
                Pred => false,
            };
            if known && t.bits() >= 16 { make(Pred, vec![t, t]) } else { None }
        }
        (["selp", _], Some(t)) if t != Pred && t.bits() >= 16 => {
            make(t, vec![t, t, Pred]).map(|form| Form { function: format!("selp<{}>", t.cpp()), ..form })
        }
        // 9.7.8 logic and shift
        (["and" | "or" | "xor", _], Some(t @ (Pred | B(_)))) => make(t, vec![t, t]),
        (["not", _], Some(t @ (Pred | B(_)))) => make(t, vec![t]),
        (["shl", _], Some(B(bits))) if bits >= 16 => make(B(bits), vec![B(bits), U(32)]),
        (["shr", _], Some(t @ (B(_) | U(_) | S(_)))) if t.bits() >= 16 => make(t, vec![t, U(32)]),
        (["shf", "l" | "r", "wrap" | "clamp", "b32"], _) => make(B(32), vec![B(32), B(32), U(32)]),
        (["prmt", "b32"], _) => make(B(32), vec![B(32), B(32), B(32)]),
        // 9.7.9 conversion
        (["cvta", "to", "global", "u64"] | ["cvta", "global", "u64"], _) => make(U(64), vec![U(64)]),
        (["cvt", "rn", "bf16", "f32"], _) => make(B(16), vec![F(32)]),
        (["cvt", "rn", "bf16x2", "f32"], _) => make(B(32), vec![F(32), F(32)]),
        (["cvt", to, _], Some(from)) => {
            let to = Type::of(to)?;
            let exact = (to.is_integer() && from.is_integer()) || (to, from) == (F(64), F(32));
            if exact {
                make(to, vec![from]).map(|form| Form { function: format!("cvt<{}, {}>", to.cpp(), from.cpp()), ..form })
            } else {
                None
            }
        }
        (["cvt", "rn", to, _], Some(from)) => match (Type::of(to)?, from) {
            (to @ F(_), from) if from.is_integer() || (to, from) == (F(32), F(64)) => {
                make(to, vec![from]).map(|form| Form { function: format!("cvt_rn<{}, {}>", to.cpp(), from.cpp()), ..form })
            }
            _ => None,
        },
        (["cvt", "rni", to, _], Some(from @ F(_))) if Type::of(to)? == from => make(from, vec![from]),
        (["cvt", "rzi" | "rni", to, _], Some(from @ F(_))) if Type::of(to)?.is_integer() => make(Type::of(to)?, vec![from]),
        _ => None,
    }
}
