//! What threads do together: barriers, shuffles, votes, matrix loads, and asynchronous copies into what they share.

use super::emit::Emitter;
use super::instructions::Type;
use super::operands::members;
use super::parse::{Fallible, Instruction};

impl Emitter<'_> {
    pub fn of_several_threads(&mut self, i: &Instruction, words: &[&str]) -> Fallible<String> {
        let (what, place) = self.place(i);
        match words {
            // 9.7.13.1: bar.sync is barrier.sync.aligned, all threads at the same instruction.
            ["bar", "sync"] | ["barrier", "sync", "aligned"] if i.operands == ["0"] => Ok(format!("standin::barrier({place});")),
            ["bar", "sync"] | ["barrier", "sync", "aligned"] => Err("only barrier 0 of all threads is modelled".into()),
            ["bar", "warp", "sync"] => {
                let mask = self.read(i.operand(0)?, Type::B(32))?;
                Ok(format!("ptx::bar_warp_sync({mask}, {what}, {place});"))
            }
            ["shfl", "sync", mode @ ("up" | "down" | "bfly" | "idx"), "b32"] => self.shuffle(i, mode),
            ["vote", "sync", "ballot", "b32"] => {
                let vote = self.read(i.operand(1)?, Type::Pred)?;
                let mask = self.read(i.operand(2)?, Type::B(32))?;
                self.write(i.operand(0)?, &format!("ptx::vote_ballot({vote}, {mask}, {what}, {place})"), Type::B(32))
            }
            ["ldmatrix", "sync", "aligned", "m8n8", number, "shared", "b16"] => self.load_matrices(i, number, false),
            ["ldmatrix", "sync", "aligned", "m8n8", number, "trans", "shared", "b16"] => self.load_matrices(i, number, true),
            ["cp", "async", cache @ ("ca" | "cg"), "shared", "global"] => self.copy(i, cache),
            ["cp", "async", "commit_group"] => Ok("standin::commit_copies();".into()),
            ["cp", "async", "wait_group"] => {
                let groups: u32 = i.operand(0)?.parse().map_err(|_| "the number of groups is no constant")?;
                Ok(format!("standin::wait_for_copies({groups});"))
            }
            ["cp", "async", "wait_all"] => Ok("standin::commit_copies(); standin::wait_for_copies(0);".into()),
            _ => Err("not modelled".into()),
        }
    }

    fn shuffle(&mut self, i: &Instruction, mode: &str) -> Fallible<String> {
        let (what, place) = self.place(i);
        let mut arguments = Vec::new();
        for k in 1..5 {
            arguments.push(self.read(i.operand(k)?, Type::B(32))?);
        }
        let to = i.operand(0)?;
        let (to, inside) = to.split_once('|').unwrap_or((to, "_"));
        let value = self.write(to, "got.value", Type::B(32))?;
        let inside = self.write(inside, "got.inside", Type::Pred)?;
        Ok(format!("{{ const auto got = ptx::shfl_{mode}({}, {what}, {place}); {value} {inside} }}", arguments.join(", ")))
    }

    fn load_matrices(&mut self, i: &Instruction, number: &str, transposed: bool) -> Fallible<String> {
        let (what, place) = self.place(i);
        let matrices = number.strip_prefix('x').filter(|n| ["1", "2", "4"].contains(n)).ok_or("not modelled")?;
        let row = self.shared_address(i.operand(1)?, 16)?;
        let mut text = format!("{{ uint32_t x[{matrices}]; ptx::ldmatrix<{matrices}, {transposed}>(x, {row}, {what}, {place}); ");
        let registers = members(i.operand(0)?);
        if registers.len().to_string() != matrices {
            return Err(format!("{} registers for {matrices} matrices", registers.len()));
        }
        for (k, register) in registers.into_iter().enumerate() {
            text.push_str(&self.write(register, &format!("x[{k}]"), Type::B(32))?);
        }
        Ok(text + " }")
    }

    fn copy(&mut self, i: &Instruction, cache: &str) -> Fallible<String> {
        let (_, place) = self.place(i);
        let bytes: u32 = i.operand(2)?.parse().map_err(|_| "the size is no number")?;
        let is_known = if cache == "cg" { bytes == 16 } else { [4, 8, 16].contains(&bytes) };
        if !is_known || i.operands.len() > 4 {
            return Err(format!("a copy of {bytes} bytes, {} operands", i.operands.len()));
        }
        let to = self.shared_address(i.operand(0)?, bytes)?;
        let from = self.global_address(i.operand(1)?)?;
        let source_bytes = match i.operands.get(3) {
            Some(operand) => self.read(operand, Type::U(32))?,
            None => bytes.to_string(),
        };
        Ok(format!("ptx::cp_async<{bytes}>({to}, {from}, {source_bytes}, {place});"))
    }
}
