//! One C++ function a kernel: registers are locals, labels are labels, an instruction is a call of a function of `runtime/`.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;

use super::instructions::{Type, form, refusal};
use super::operands::{cpp_class, members, poison, scoped};
use super::parse::{Class, Fallible, Instruction, Kernel, Module, Parameter, Statement};
use super::warpgroup;

pub struct Emitter<'a> {
    pub module: &'a Module,
    pub kernel: &'a Kernel,
    /// The PTX file's name.
    pub file: &'a str,
    /// Registers of the inner scopes, by full name.
    pub scopes: Vec<HashMap<String, Class>>,
    /// C++ class and name of the kernel's registers that occur.
    pub used: BTreeSet<(String, String)>,
    /// Shared arrays that occur.
    pub symbols: BTreeSet<String>,
    /// Registers that have a state beside them: what `wgmma` takes, and what they are moved from and to.
    pub stated: BTreeSet<String>,
    /// Place of the instruction at work, in quotes.
    pub here: String,
    pub out: String,
}

/// The C++ text of a module; `file` is the PTX file's name.
pub fn module(module: &Module, file: &str) -> Fallible<String> {
    let mut out = format!("// Made from {file}; do not edit.\n#include \"ptx/runtime/ptx.h\"\n\nnamespace {{\n");
    for kernel in &module.kernels {
        let (scopes, used, symbols) = (vec![HashMap::new()], BTreeSet::new(), BTreeSet::new());
        let stated = warpgroup::stated(kernel);
        let mut emitter = Emitter { module, kernel, file, scopes, used, symbols, stated, here: String::new(), out: String::new() };
        emitter.body()?;
        out.push_str(&emitter.function()?);
        out.push_str(&registration(kernel, file, module.target));
    }
    out.push_str("\n}  // namespace\n");
    Ok(out)
}

/// The table of parameters, each behind the one before at its own alignment, and what makes the kernel known to the driver.
fn registration(kernel: &Kernel, file: &str, target: u32) -> String {
    let Kernel { name, block, parameters, .. } = kernel;
    let mut offset = 0u32;
    let mut row = |p: &Parameter| {
        let at = offset.div_ceil(p.align) * p.align;
        offset = at + p.size;
        format!("{{{at}, {}, {}, {}}}, ", p.size, p.is_pointer, p.may_hold_pointers)
    };
    let rows: String = parameters.iter().map(&mut row).collect();
    format!(
        "const standin::Parameter parameters_{name}[] = {{{rows}{{0, 0, false, false}}}};\n\
         const standin::Registration registration_{name}(standin::KernelEntry{{\"{name}\", \"{file}\", {block}, run_{name}, parameters_{name}, {}, {target}}});\n",
        parameters.len()
    )
}

impl Emitter<'_> {
    fn body(&mut self) -> Fallible<()> {
        let statements = &self.kernel.body;
        let (mut next, mut last_source) = (0, (0, 0));
        while let Some(statement) = statements.get(next) {
            next += 1;
            match statement {
                Statement::Label(name) => {
                    let _ = writeln!(self.out, "{}:;", label(name));
                }
                Statement::Open => {
                    self.scopes.push(HashMap::new());
                    self.out.push_str("    {\n");
                }
                Statement::Close => {
                    self.scopes.pop();
                    self.out.push_str("    }\n");
                }
                Statement::Register(name, class) => {
                    self.scopes.last_mut().ok_or("a register outside of all scopes")?.insert(name.clone(), *class);
                    let _ = writeln!(self.out, "    {} {} = 0;", cpp_class(*class), scoped(name));
                }
                Statement::Instruction(i) => {
                    if i.source != last_source {
                        last_source = i.source;
                        self.source_line(i);
                    }
                    let at = |problem: String| format!("line {}: kernel {}: {}: {problem}", i.line, self.kernel.name, i.opcode);
                    self.here = self.place(i).0;
                    if i.opcode.starts_with("mma.") {
                        next += self.products(&statements[next - 1..]).map_err(at)? - 1;
                    } else {
                        let text = self.guarded(i).map_err(at)?;
                        let _ = writeln!(self.out, "    {text}");
                    }
                }
            }
        }
        Ok(())
    }

    /// So that a fault is placed in the `.cu` file.
    fn source_line(&mut self, i: &Instruction) {
        if let Some(path) = self.module.files.get(&i.source.0) {
            let _ = writeln!(self.out, "#line {} \"{path}\"", i.source.1.max(1));
        }
    }

    fn guarded(&mut self, i: &Instruction) -> Fallible<String> {
        let text = self.instruction(i)?;
        let Some((negated, name)) = &i.guard else { return Ok(text) };
        let condition = self.read(name, Type::Pred)?;
        Ok(format!("if ({}{condition}) {{ {text} }}", if *negated { "!" } else { "" }))
    }

    /// The head of the function, registers and shared arrays, around the body.
    fn function(&mut self) -> Fallible<String> {
        let name = &self.kernel.name;
        let mut text = format!("\nvoid run_{name}(void* const* arguments) {{\n    (void)arguments;\n");
        for (class, register) in &self.used {
            let _ = writeln!(text, "    {class} {register} = {};", poison(class));
        }
        text.push_str(&self.states());
        for name in &self.symbols {
            let array = self.shared(name).ok_or_else(|| format!("{name} is no shared array"))?;
            if array.align > 128 {
                return Err(format!("{name} is aligned to {}, and only 128 is modelled", array.align));
            }
            let _ = match array.bytes {
                Some(bytes) => writeln!(
                    text,
                    "    static const char key_{name} = 0;\n    const uint32_t {name} = ptx::shared_array(&key_{name}, {bytes}, \"{name}\");"
                ),
                None => writeln!(text, "    const uint32_t {name} = ptx::DYNAMIC_SHARED_AT;"),
            };
        }
        Ok(text + &self.out + "}\n")
    }

    /// The operation with its place in quotes, and the arguments `file, line` of whatever waits: the file says the place in the
    /// source, and the line is the PTX line, by which threads that meet know that they are at the same instruction.
    pub fn place(&self, i: &Instruction) -> (String, String) {
        let source = self.module.files.get(&i.source.0).map_or("", |path| path.rsplit('/').next().unwrap_or(path));
        let what = i.opcode.split('.').take(2).collect::<Vec<_>>().join(".");
        (format!("\"{what} ({source}:{})\"", i.source.1), format!("\"{source}:{}, {}\", {}", i.source.1, self.file, i.line))
    }

    fn instruction(&mut self, i: &Instruction) -> Fallible<String> {
        let words: Vec<&str> = i.opcode.split('.').collect();
        match words.as_slice() {
            ["bra"] | ["bra", "uni"] => Ok(format!("goto {};", label(i.operand(0)?))),
            ["ret" | "exit"] => Ok("return;".into()),
            ["trap"] => Ok(format!("standin::fail_launch(\"%s\", {});", self.here)),
            ["mov", kind] => self.mov(i, Type::of(kind).ok_or("not modelled")?),
            ["ld", ..] => self.load(i),
            ["st", ..] => self.store(i),
            ["atom" | "red", ..] => self.atomic(i),
            ["mbarrier" | "wgmma", ..] | ["fence", "proxy", "async", ..] | ["cp", "async", "bulk", ..] => self.by_itself(i, &words),
            // 9.7.14: of a launch that may begin before the kernel before it has ended.
            ["griddepcontrol", "wait"] => Ok("standin::wait_for_previous();".into()),
            ["griddepcontrol", "launch_dependents"] => Ok("standin::let_next_begin();".into()),
            ["bar" | "barrier" | "shfl" | "vote" | "ldmatrix" | "cp", ..] => self.of_several_threads(i, &words),
            ["membar", "cta" | "gl" | "sys"] | ["fence", "sc" | "acq_rel", "cta" | "gpu" | "sys"] => {
                Ok("__atomic_thread_fence(__ATOMIC_SEQ_CST);".into())
            }
            _ => self.plain(i),
        }
    }

    fn plain(&mut self, i: &Instruction) -> Fallible<String> {
        let form = form(&i.opcode).ok_or_else(|| refusal(&i.opcode).unwrap_or("this instruction is not modelled"))?;
        if i.operands.len() != form.sources.len() + 1 {
            return Err(format!("{} operands", i.operands.len()));
        }
        let is_conversion = i.opcode.starts_with("cvt.");
        let mut arguments = Vec::new();
        for (operand, &wanted) in i.operands[1..].iter().zip(&form.sources) {
            arguments.push(self.read_of_width(operand, wanted, is_conversion)?);
        }
        if form.carry {
            arguments.push("carry".into());
            self.used.insert(("bool".into(), "carry".into()));
        }
        let value = format!("ptx::{}({})", form.function, arguments.join(", "));
        self.write_of_width(i.operand(0)?, &value, form.result, is_conversion)
    }

    /// 9.7.9.1 and 9.7.9.2: values, special registers, addresses, packing and unpacking.
    fn mov(&mut self, i: &Instruction, kind: Type) -> Fallible<String> {
        let (to, from) = (i.operand(0)?, i.operand(1)?);
        let part_of = |parts: &[&str]| Type::B(kind.bits() / parts.len().max(1) as u32);
        if to.starts_with('{') {
            let parts = members(to);
            let part = part_of(&parts);
            let mut text = format!("{{ const uint{}_t whole = {}; ", kind.bits(), self.read(from, kind)?);
            for (k, name) in parts.into_iter().enumerate() {
                let piece = format!("static_cast<{}>(whole >> {})", part.cpp(), k as u32 * part.bits());
                text.push_str(&self.write(name, &piece, part)?);
            }
            return Ok(text + " }");
        }
        if from.starts_with('{') {
            let parts = members(from);
            let part = part_of(&parts);
            let mut pieces = Vec::new();
            for (k, name) in parts.into_iter().enumerate() {
                pieces.push(format!("static_cast<{}>({}) << {}", kind.cpp(), self.read(name, part)?, k as u32 * part.bits()));
            }
            return self.write(to, &pieces.join(" | "), kind);
        }
        if self.shared(from).is_some() {
            self.symbols.insert(from.into());
            return self.write_of_width(to, from, Type::U(32), true);
        }
        if let Some(at) = self.kernel.parameters.iter().position(|p| p.name == *from) {
            return self.write(to, &format!("reinterpret_cast<uint64_t>(arguments[{at}])"), Type::B(64));
        }
        if let Some(text) = self.move_with_state(to, from)? {
            return Ok(text);
        }
        let value = self.read(from, kind)?;
        self.write(to, &value, kind)
    }
}

fn label(name: &str) -> String {
    name.replace('$', "")
}
