//! The rule of ARCHITECTURE.md under which kernel, launcher, CPU twin and tests of an op are found by name.

use std::fs;
use std::path::Path;

fn stems(folder: &str, extension: &str) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut stems: Vec<String> = names.filter_map(|name| name.strip_suffix(extension).map(str::to_string)).collect();
    stems.sort();
    stems
}

/// `conv_data_gradient` is part `data_gradient` of op `conv`; `cross_entropy` is an op. The longest name of an op wins.
fn op_and_part<'a>(kernel: &'a str, ops: &[String]) -> Option<(&'a str, Option<&'a str>)> {
    let of_op = |op: &String| match kernel.strip_prefix(op.as_str())? {
        "" => Some((op.len(), None)),
        rest => rest.strip_prefix('_').map(|part| (op.len(), Some(part))),
    };
    ops.iter().filter_map(of_op).max().map(|(len, part)| (&kernel[..len], part))
}

#[test]
fn an_op_has_one_stem_everywhere() {
    let ops: Vec<String> = stems("src/ops", "").into_iter().filter(|name| !name.ends_with(".rs")).collect();
    let mut missing = Vec::new();
    let mut need = |path: String| {
        if !Path::new(&path).is_file() {
            missing.push(path);
        }
    };
    let kernels = stems("kernels", ".cu");
    assert!(kernels.len() > 10, "{kernels:?}");
    for kernel in kernels.iter().filter(|kernel| *kernel != "probe") {
        let (op, part) = op_and_part(kernel, &ops).unwrap_or_else(|| panic!("kernels/{kernel}.cu belongs to no op of {ops:?}"));
        need(format!("src/ops/{op}/mod.rs"));
        need(format!("src/ops/{op}/cuda{}.rs", part.map_or(String::new(), |part| format!("_{part}"))));
        need(format!("tests/{kernel}_cuda.rs"));
        let header = fs::read_to_string(format!("kernels/{kernel}.cu")).unwrap();
        assert!(header.contains(&format!("// Tests      tests/{kernel}_cuda.rs")), "kernels/{kernel}.cu names another test in its head");
    }
    for op in ops.iter().filter(|op| *op != "augment") {
        need(format!("src/ops/{op}/cpu.rs"));
    }
    assert!(missing.is_empty(), "not there: {missing:?}");
}

#[test]
fn no_launcher_is_without_a_kernel() {
    for op in stems("src/ops", "").iter().filter(|name| !name.ends_with(".rs")) {
        for launcher in stems(&format!("src/ops/{op}"), ".rs").iter().filter_map(|file| file.strip_prefix("cuda")) {
            assert!(
                Path::new(&format!("kernels/{op}{launcher}.cu")).is_file(),
                "src/ops/{op}/cuda{launcher}.rs has no kernels/{op}{launcher}.cu"
            );
        }
    }
}

/// A path in the words of a text: from `src/`, `tests/`, … to the end of its file name.
fn paths(text: &str) -> Vec<String> {
    let roots = ["src/", "tests/", "kernels/", "docs/", "emulator/", "benches/", "recipes/"];
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || "/._-".contains(c)));
    let named = words.filter(|word| roots.iter().any(|root| word.starts_with(root)));
    let files = named.map(|word| word.trim_end_matches(['.', '/', '-']).to_string());
    files.filter(|file| [".rs", ".cu", ".cuh", ".md", ".toml"].iter().any(|end| file.ends_with(end))).collect()
}

#[test]
fn files_that_comments_and_documents_name_are_there() {
    let mut texts: Vec<String> = ["ARCHITECTURE.md", "CONTRIBUTING.md", "README.md"].map(String::from).into();
    texts.extend(stems("kernels", ".cu").iter().map(|stem| format!("kernels/{stem}.cu")));
    texts.extend(stems("kernels/include", ".cuh").iter().map(|stem| format!("kernels/include/{stem}.cuh")));
    texts.extend(stems("docs", ".md").iter().map(|stem| format!("docs/{stem}.md")));
    let mut missing = Vec::new();
    for text in texts {
        let found = paths(&fs::read_to_string(&text).unwrap());
        let absent = found.into_iter().filter(|path| !path.contains("NAME") && !Path::new(path).exists());
        missing.extend(absent.map(|path| format!("{path}, named in {text}")));
    }
    assert!(missing.is_empty(), "not there: {missing:#?}");
}
