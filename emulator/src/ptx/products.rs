//! `mma.sync`: products that follow each other become one meeting of the warp.

use std::fmt::Write as _;

use super::emit::Emitter;
use super::instructions::Type;
use super::operands::members;
use super::parse::{Fallible, Statement};

const MMA_U8S8: &str = "mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32";
const MMA_BF16: &str = "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32";

impl Emitter<'_> {
    /// Products that follow each other, one meeting of the warp for all; says how many statements they are.
    /// A product whose operand an earlier one of them has written begins a new meeting.
    pub fn products(&mut self, statements: &[Statement]) -> Fallible<usize> {
        let mut registers: Vec<String> = Vec::new();
        let mut index = |name: &str| {
            registers.iter().position(|known| known == name).unwrap_or_else(|| {
                registers.push(name.to_string());
                registers.len() - 1
            })
        };
        let (mut products, mut firsts, mut seconds) = (Vec::new(), Vec::<Vec<usize>>::new(), Vec::<Vec<usize>>::new());
        let mut written: Vec<usize> = Vec::new();
        let Some(Statement::Instruction(first)) = statements.first() else { return Err("no product".into()) };
        if ![MMA_U8S8, MMA_BF16].contains(&first.opcode.as_str()) {
            return Err("not modelled".into());
        }
        let mut count = 0;
        for statement in statements {
            let Statement::Instruction(i) = statement else { break };
            if i.opcode != first.opcode || i.guard.is_some() || i.operands.len() != 4 {
                break;
            }
            let mut of = |operand: &str| members(operand).into_iter().map(&mut index).collect::<Vec<usize>>();
            let (d, a, b, c) = (of(i.operand(0)?), of(i.operand(1)?), of(i.operand(2)?), of(i.operand(3)?));
            if (d.len(), a.len(), b.len(), c.len()) != (4, 4, 2, 4) {
                return Err("4, 4, 2, 4 registers".into());
            }
            if a.iter().chain(&b).any(|register| written.contains(register)) {
                break;
            }
            written.extend(&d);
            let slot = |all: &mut Vec<Vec<usize>>, one: Vec<usize>| {
                all.iter().position(|known| *known == one).unwrap_or_else(|| {
                    all.push(one);
                    all.len() - 1
                })
            };
            let (a, b) = (slot(&mut firsts, a), slot(&mut seconds, b));
            products.push(format!("{{{}, {}, {a}, {b}}}", braced(&d), braced(&c)));
            count += 1;
        }
        if count == 0 {
            return Err("a product under a guard, or of other operands".into());
        }
        let is_float = first.opcode == MMA_BF16;
        let (what, place) = self.place(first);
        let mut values = Vec::new();
        for register in &registers {
            values.push(self.read(register, Type::B(32))?);
        }
        let _ = writeln!(self.out, "    {{");
        let _ = writeln!(self.out, "        static const ptx::Product products[] = {{{}}};", products.join(", "));
        let _ = writeln!(self.out, "        static const uint16_t a[][4] = {{{}}}, b[][2] = {{{}}};", rows(&firsts), rows(&seconds));
        let _ = writeln!(
            self.out,
            "        static const ptx::Products all = {{products, {count}, a, {}, b, {}}};",
            firsts.len(),
            seconds.len()
        );
        let _ = writeln!(self.out, "        uint32_t x[] = {{{}}};", values.join(", "));
        let _ = writeln!(self.out, "        ptx::mma_{}(all, x, {what}, {place});", if is_float { "bf16" } else { "u8s8" });
        written.sort_unstable();
        written.dedup();
        for register in written {
            let text = self.write(&registers[register].clone(), &format!("x[{register}]"), Type::B(32))?;
            let _ = writeln!(self.out, "        {text}");
        }
        let _ = writeln!(self.out, "    }}");
        // The first product's `.loc` and those of the others differ at most in columns: nothing else stands between them.
        Ok(count)
    }
}

fn braced(all: &[usize]) -> String {
    format!("{{{}}}", all.iter().map(usize::to_string).collect::<Vec<_>>().join(", "))
}

fn rows(all: &[Vec<usize>]) -> String {
    all.iter().map(|row| braced(row)).collect::<Vec<_>>().join(", ")
}
