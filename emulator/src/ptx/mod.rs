//! C++ of the PTX that nvcc makes of a kernel file, for the driver: one function a kernel.
//!
//! Unknown is an error here, or when the C++ compiler finds no function of the name in `runtime/`. What an instruction means is
//! taken from the PTX ISA, whose sections the numbers in comments are, and not from `host/`, so that no misreading is made twice.

mod emit;
mod instructions;
mod memory;
mod operands;
mod parse;
mod products;
mod warp;
mod warpgroup;

/// The C++ text of a PTX text; `file` names it in errors.
///
/// # Errors
/// What is not understood or not modelled, with file and line.
pub fn translate(text: &str, file: &str) -> Result<String, String> {
    let name = file.rsplit('/').next().unwrap_or(file);
    parse::module(text).and_then(|module| emit::module(&module, name)).map_err(|problem| match problem.strip_prefix("line ") {
        Some(place) => format!("{file}:{place}"),
        None => format!("{file}: {problem}"),
    })
}

#[cfg(test)]
mod tests {
    use super::translate;

    /// A kernel of these statements, which begin in line 9.
    fn kernel(statements: &str) -> Result<String, String> {
        let text = format!(
            ".version 9.0\n.target sm_80\n.address_size 64\n.visible .entry one(\n    .param .u64 one_param_0\n)\n.maxntid 128\n{{\n{statements}\n    ret;\n}}\n"
        );
        translate(&text, "kernels/one.ptx")
    }

    #[test]
    fn a_kernel_is_a_function_with_its_parameters_and_block() {
        let text = kernel("    .reg .b32 %r<3>;\n    add.s32 %r1, %r2, 7;").unwrap();
        for part in ["void run_one(", "ptx::add_s32(", "{0, 8, false, true}", "\"one\", \"one.ptx\", 128, run_one"] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }

    #[test]
    fn what_is_not_known_is_an_error_with_file_and_line() {
        let cases = [
            ("    mul.f32 %f1, %f1, %f1;", "no .rn: ptxas may fuse it"),
            ("    sin.approx.f32 %f1, %f1;", "approximate or flushing"),
            ("    tanh.f32 %f1, %f1;", "this instruction is not modelled"),
            ("    add.s32 %r1, %r2;", "2 operands"),
            ("    add.s32 %r1, %r9, %r2;", "%r9 is no register"),
            ("    add.s64 %r1, %r2, %r2;", "%r2 (Int(32)) as S(64)"),
            ("    bar.sync 1;", "only barrier 0"),
            ("    fence.proxy.alias;", "this instruction is not modelled"),
            ("    mbarrier.test_wait.parity.shared.b64 %p1, [%r1], %r2;", "not modelled"),
            ("    mbarrier.arrive.shared::cta.b64 %rd1, [%r1];", "a state of a barrier is not modelled"),
            ("    wgmma.wait_group.sync.aligned %r1;", "the number of groups is no constant"),
            ("    wgmma.mma_async.sync.aligned.m64n8k32.s32.u8.s8 {%r1}, %rd1, %rd1, %p1;", "4 registers for 8 columns"),
            ("    wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%f1}, %rd1, %rd1, %p1, 1, 1, 0, 0;", "not modelled"),
            ("    bar.red.popc.u32 %r1, 0, %p1;", "not modelled"),
            ("    ld.local.u32 %r1, [%r2];", "modifiers that are not modelled"),
            ("    ld.param.u64 %rd1, [one_param_0+8];", "bytes 8..+8 of a parameter of 8"),
            ("    cp.async.ca.shared.global [%r1], [%rd1], 12;", "a copy of 12 bytes"),
            ("    shfl.sync.bfly.b32 %r1, %r2;", "2 operands"),
            ("    .local .b8 depot[8];", "a statement that is not understood"),
        ];
        for (statement, problem) in cases {
            let registers = "    .reg .b32 %r<3>; .reg .f32 %f<2>; .reg .b64 %rd<2>; .reg .pred %p<2>;";
            let said = kernel(&format!("{registers}\n{statement}")).unwrap_err();
            assert!(said.starts_with("kernels/one.ptx:10: ") && said.contains(problem), "{statement}: {said}");
        }
    }
}
