//! Which wheel `scripts/python_package.sh` makes where zig is there, fails, or cannot be had: with stand-ins of pip, Python and maturin.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::tempdir;

const MATURIN: &str = r#"#!/bin/sh
case "$*" in *--zig*) [ "$ZIG" != fails ] || exit 1 ;; esac
while [ "$1" != --out ]; do shift; done
mkdir -p "$2" && touch "$2/dsr-0-any.whl"
"#;
/// zig is a file beside it.
const PYTHON: &str = "#!/bin/sh\n[ -e \"${0%/*}/zig\" ]\n";
const PIP: &str = "#!/bin/sh\n[ \"$ZIG\" != absent ] && touch \"${0%/*}/zig\"\n";

/// A folder with the script, and stand-ins where it looks for what it has installed before.
fn made(root: &Path, variables: &[(&str, &str)]) -> Output {
    let bin = root.join("target/python/build/bin");
    [&root.join("scripts"), &root.join("python"), &bin].iter().for_each(|folder| fs::create_dir_all(folder).unwrap());
    for (name, text) in [("maturin", MATURIN), ("python", PYTHON), ("pip", PIP)] {
        fs::write(bin.join(name), text).unwrap();
        fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let script = root.join("scripts/python_package.sh");
    fs::copy("scripts/python_package.sh", &script).unwrap();
    Command::new(script).arg("wheel").env_remove("CI").envs(variables.iter().copied()).output().unwrap()
}

#[test]
fn the_last_line_says_whom_the_wheel_serves() {
    for (variables, expected) in [
        (&[("ZIG", "works")][..], Some("is for glibc 2.17 and newer (manylinux2014, linked by zig)")),
        (&[("ZIG", "works"), ("CI", "1")], Some("is for glibc 2.17 and newer (manylinux2014, linked by zig)")),
        (&[("ZIG", "absent")], Some("is for the glibc of this system and newer: ziglang could not be installed")),
        (&[("ZIG", "absent"), ("CI", "1")], Some("is for the glibc of this system and newer: ziglang could not be installed")),
        (&[("ZIG", "fails")], Some("is for the glibc of this system and newer: zig has not made it")),
        (&[("ZIG", "fails"), ("CI", "1")], None),
    ] {
        let folder = tempdir().unwrap();
        let output = made(folder.path(), variables);
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.success(), expected.is_some(), "{variables:?}: {stdout}{stderr}");
        match expected {
            Some(words) => {
                let last = stdout.lines().last().unwrap_or_default();
                assert!(last.ends_with(words) && last.contains("dsr-0-any.whl "), "{variables:?}: {stdout}{stderr}");
            }
            None => assert!(stderr.contains("zig has not made the wheel"), "{variables:?}: {stderr}"),
        }
    }
}
