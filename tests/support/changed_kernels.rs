//! Kernels with a fault planted in a copy of them, compiled by nvcc.

use std::path::Path;

/// Whether there is an nvcc; where `REQUIRE_NVCC` asks for one, it must be there.
pub fn has_nvcc() -> bool {
    let Err(problem) = emulator::has_nvcc() else { return true };
    let required = std::env::var("REQUIRE_NVCC").is_ok_and(|value| !matches!(value.as_str(), "" | "0"));
    assert!(!required, "{problem}");
    println!("skipped: {problem}");
    false
}

/// Changes a file where `old` stands in it, once.
pub fn edit(file: &Path, old: &str, new: &str) {
    let text = std::fs::read_to_string(file).unwrap();
    assert_eq!(text.matches(old).count(), 1, "{old:?} in {}", file.display());
    std::fs::write(file, text.replace(old, new)).unwrap();
}

/// Copies `kernels` into `folder`, with a change of a file that applies exactly once.
pub fn change(kernels: &Path, folder: &Path, file: &str, old: &str, new: &str) {
    std::fs::create_dir_all(folder.join("include")).unwrap();
    for part in ["", "include"] {
        for entry in std::fs::read_dir(kernels.join(part)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                std::fs::copy(&path, folder.join(part).join(path.file_name().unwrap())).unwrap();
            }
        }
    }
    edit(&folder.join(file), old, new);
}
