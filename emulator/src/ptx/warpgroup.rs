//! What runs by itself on sm_90a: `wgmma`, `mbarrier`, `cp.async.bulk`, and the fence between plain stores and these.
//!
//! A product writes its registers at some time before `wgmma.wait_group`, and reads those of A until then. So each of them has a state
//! beside it (`runtime/warpgroup.h`), and so has each register that one of them is moved from or to: nvcc moves sums that are under
//! way between its own registers, which ptxas makes one again.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::emit::Emitter;
use super::instructions::Type;
use super::operands::members;
use super::parse::{Class, Fallible, Instruction, Kernel, Statement};

const PRODUCT: &str = "wgmma.mma_async.sync.aligned.m64n";

/// The registers of a kernel that have a state.
pub fn stated(kernel: &Kernel) -> BTreeSet<String> {
    let instructions = || kernel.body.iter().filter_map(|statement| if let Statement::Instruction(i) = statement { Some(i) } else { None });
    let mut all = BTreeSet::new();
    for i in instructions().filter(|i| i.opcode.starts_with(PRODUCT)) {
        for operand in i.operands.iter().filter(|operand| operand.starts_with('{')) {
            all.extend(members(operand).into_iter().map(String::from));
        }
    }
    let moves: Vec<(&str, &str)> = instructions()
        .filter(|i| matches!(i.opcode.as_str(), "mov.b32" | "mov.u32" | "mov.s32"))
        .filter_map(|i| Some((i.operands.first()?.as_str(), i.operands.get(1)?.as_str())))
        .filter(|(to, from)| is_numbered(to) && is_numbered(from))
        .collect();
    loop {
        let before = all.len();
        for (to, from) in &moves {
            if all.contains(*to) || all.contains(*from) {
                all.extend([String::from(*to), String::from(*from)]);
            }
        }
        if all.len() == before {
            return all;
        }
    }
}

/// `%r12`, and not `%tid.x`.
fn is_numbered(operand: &str) -> bool {
    operand.starts_with('%') && !operand.contains('.') && operand.ends_with(|c: char| c.is_ascii_digit())
}

fn state(name: &str) -> String {
    format!("state_{name}")
}

impl Emitter<'_> {
    /// Declarations of the states, for the head of the function.
    pub fn states(&self) -> String {
        let mut text = String::new();
        for register in &self.stated {
            let _ = writeln!(text, "    uint64_t {} = 0;", state(register.trim_start_matches('%')));
        }
        if !text.is_empty() {
            text.push_str("    uint64_t fences = 1;\n");
        }
        text
    }

    /// The value of a register for an instruction that reads it.
    pub fn looked_at(&self, operand: &str, name: String) -> String {
        if self.stated.contains(operand) { format!("ptx::settled({name}, {}, {})", state(&name), self.here) } else { name }
    }

    /// What writes a register, with what is noted beside it.
    pub fn written(&self, operand: &str, name: &str, text: String) -> String {
        if !self.stated.contains(operand) {
            return text;
        }
        format!("{{ ptx::before_write({0}, {1}); {text} {0} = fences; }}", state(name), self.here)
    }

    /// `mov` between registers that have a state; none where one of them has none.
    pub fn move_with_state(&mut self, to: &str, from: &str) -> Fallible<Option<String>> {
        if !self.stated.contains(to) || !self.stated.contains(from) {
            return Ok(None);
        }
        let ((to, _), (from, _)) = (self.register(to)?, self.register(from)?);
        let (state_to, state_from) = (state(&to), state(&from));
        let check = if to == from { String::new() } else { format!("ptx::before_move({state_to}, {}); ", self.here) };
        Ok(Some(format!("{{ {check}{to} = {from}; {state_to} = ptx::moved({state_from}); }}")))
    }

    pub fn by_itself(&mut self, i: &Instruction, words: &[&str]) -> Fallible<String> {
        let (what, place) = self.place(i);
        match words {
            // 9.7.13.15: only what needs no state of a barrier in registers.
            ["mbarrier", "init", "shared::cta" | "shared", "b64"] => {
                let (barrier, arrivals) = (self.shared_address(i.operand(0)?, 8)?, self.read(i.operand(1)?, Type::U(32))?);
                Ok(format!("standin::phases_init({barrier}, {arrivals}, {place});"))
            }
            ["mbarrier", "arrive", rest @ ..] => {
                if i.operand(0)? != "_" {
                    return Err("a state of a barrier is not modelled".into());
                }
                let bytes = match rest {
                    ["shared::cta" | "shared", "b64"] if i.operands.len() == 2 => "0".into(),
                    ["expect_tx", "shared::cta" | "shared", "b64"] => self.read(i.operand(2)?, Type::U(32))?,
                    _ => return Err("not modelled".into()),
                };
                let barrier = self.shared_address(i.operand(1)?, 8)?;
                Ok(format!("standin::phases_arrive({barrier}, {bytes}, {place});"))
            }
            ["mbarrier", "try_wait", "parity", "shared::cta" | "shared", "b64"] if i.operands.len() == 3 => {
                let (barrier, parity) = (self.shared_address(i.operand(1)?, 8)?, self.read(i.operand(2)?, Type::U(32))?);
                let wait = format!("standin::phases_wait({barrier}, {parity}, {place});");
                Ok(format!("{{ {wait} {} }}", self.write(i.operand(0)?, "true", Type::Pred)?))
            }
            // 9.7.13.4: whichever space it names, only shared memory is watched.
            ["fence", "proxy", "async"] | ["fence", "proxy", "async", "shared::cta"] => Ok("standin::fence_async_proxy();".into()),
            // 9.7.9.25.4.1; a block is a cluster of its own.
            ["cp", "async", "bulk", "shared::cluster" | "shared::cta", "global", "mbarrier::complete_tx::bytes"]
                if i.operands.len() == 4 =>
            {
                let to = self.shared_address(i.operand(0)?, 16)?;
                let from = self.global_address(i.operand(1)?)?;
                let bytes = self.read(i.operand(2)?, Type::U(32))?;
                let barrier = self.shared_address(i.operand(3)?, 8)?;
                Ok(format!("ptx::cp_async_bulk({to}, {from}, {bytes}, {barrier}, {place});"))
            }
            ["wgmma", "fence", "sync", "aligned"] => {
                let counts = if self.stated.is_empty() { "" } else { " ++fences;" };
                Ok(format!("standin::fence_products({what}, {place});{counts}"))
            }
            ["wgmma", "commit_group", "sync", "aligned"] => Ok(format!("standin::commit_products({what}, {place});")),
            ["wgmma", "wait_group", "sync", "aligned"] => {
                let groups: u32 = i.operand(0)?.parse().map_err(|_| "the number of groups is no constant")?;
                let mut text = format!("standin::wait_for_products({groups}, {what}, {place});");
                for register in self.stated.clone() {
                    let (name, _) = self.register(&register)?;
                    let _ = write!(text, " ptx::settle({name}, {});", state(&name));
                }
                Ok(text)
            }
            ["wgmma", "mma_async", "sync", "aligned", shape, "s32", of_a @ ("u8" | "s8"), "s8"] => {
                self.product_of_warpgroup(i, shape, *of_a == "s8")
            }
            _ => Err("not modelled".into()),
        }
    }

    /// 9.7.15.5, of u8 or s8 and s8.
    fn product_of_warpgroup(&mut self, i: &Instruction, shape: &str, has_signs: bool) -> Fallible<String> {
        let columns = shape.strip_prefix("m64n").and_then(|rest| rest.strip_suffix("k32")).and_then(|n| n.parse::<usize>().ok());
        let columns = columns.filter(|n| (*n <= 32 && n % 8 == 0) || (*n <= 256 && n % 16 == 0)).filter(|n| *n > 0).ok_or("shape")?;
        if i.operands.len() != 4 {
            return Err(format!("{} operands", i.operands.len()));
        }
        let sums = members(i.operand(0)?);
        if sums.len() != columns / 2 {
            return Err(format!("{} registers for {columns} columns", columns / 2));
        }
        let (what, place) = self.place(i);
        let mut names = Vec::new();
        for register in sums {
            match self.register(register)? {
                (name, Class::Int(32)) => names.push(name),
                (name, class) => return Err(format!("{name} ({class:?}) as a sum")),
            }
        }
        let states: Vec<String> = names.iter().map(|name| state(name)).collect();
        let first = i.operand(1)?;
        let (mut head, mut tail) = (String::new(), String::new());
        let (a, a_states, a_descriptor) = if first.starts_with('{') {
            let (mut values, mut of_values) = (Vec::new(), Vec::new());
            for register in members(first) {
                values.push(self.read(register, Type::B(32))?);
                of_values.push(state(&self.register(register)?.0));
            }
            if values.len() != 4 {
                return Err("4 registers of A".into());
            }
            let _ = write!(head, "const uint32_t a[] = {{{}}}; uint64_t of_a[] = {{{}}}; ", values.join(", "), of_values.join(", "));
            for (k, of_value) in of_values.iter().enumerate() {
                let _ = write!(tail, " {of_value} = of_a[{k}];");
            }
            ("a", "of_a", "0".to_string())
        } else {
            ("nullptr", "nullptr", self.read(first, Type::B(64))?)
        };
        let (b, adds) = (self.read(i.operand(2)?, Type::B(64))?, self.read(i.operand(3)?, Type::Pred)?);
        for (k, name) in names.iter().enumerate() {
            let _ = write!(tail, " {name} = d[{k}]; {} = of_d[{k}];", state(name));
        }
        Ok(format!(
            "{{ {head}uint32_t d[] = {{{}}}; uint64_t of_d[] = {{{}}}; \
             ptx::wgmma<{columns}>(d, of_d, {a}, {a_states}, {a_descriptor}, {has_signs}, {b}, {adds}, fences, {what}, {place});{tail} }}",
            names.join(", "),
            states.join(", ")
        ))
    }
}
