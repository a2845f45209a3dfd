//! Pictures of no pixels, which some formats have: files that cannot be read like any other, by the real binary.

#[path = "support/command.rs"]
mod command;
#[path = "support/own_sets.rs"]
mod own_sets;

use std::fs;

use command::{dsr, ok};
use tempfile::tempdir;

const EMPTY: [(&str, &str); 6] = [
    ("both.pgm", "P5\n0 0\n255\n"),
    ("flat.pgm", "P5\n5 0\n255\n"),
    ("thin.pgm", "P5\n0 5\n255\n"),
    ("thin.pbm", "P4\n0 5\n"),
    ("plain.pbm", "P1\n0 5\n"),
    ("any.ppm", "P7\nWIDTH 0\nHEIGHT 5\nDEPTH 1\nMAXVAL 255\nTUPLTYPE GRAYSCALE\nENDHDR\n"),
];

const TRAIN: &str = "train -d images --data-dir set --image-size 12 --widths 4 --blocks 1 -T 2 -b 8 --epochs 1 -q";

#[test]
fn a_picture_without_pixels_cannot_be_read() {
    let folder = tempdir().unwrap();
    let at = folder.path();
    own_sets::splits(&at.join("set"), "val", [4, 2]);
    ok(at, &format!("{TRAIN} --out run"));
    fs::create_dir(at.join("new")).unwrap();
    EMPTY.iter().for_each(|(name, bytes)| fs::write(at.join("new").join(name), bytes).unwrap());
    fs::copy(at.join("set/val/oak/000.png"), at.join("new/good.png")).unwrap();
    for batch in ["", "-b 1"] {
        let output = dsr(at, &format!("classify new --checkpoint run {batch}"));
        let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stdout.contains("new/good.png: "), "{stdout}");
        for (name, _) in EMPTY {
            let line = stderr.lines().find(|line| line.starts_with(&format!("error: new/{name}: "))).unwrap_or_default();
            assert!(line.contains("get it again"), "{name}: {stderr}");
        }
        assert!(stderr.ends_with("error: 6 of 7 pictures could not be read\n"), "{stderr}");
    }
    for (name, bytes) in &EMPTY[..4] {
        let file = at.join("set/train/ash").join(name);
        fs::write(&file, bytes).unwrap();
        let fits = ["crop", "fit", "pad"].map(|fit| format!("{TRAIN} --image-fit {fit} --out other"));
        for line in fits.iter().map(String::as_str).chain(["data sheet -d images --data-dir set --per-class 9 --out sheet.png"]) {
            let output = dsr(at, line);
            let stderr = String::from_utf8(output.stderr).unwrap();
            let words = [name, "so there is no picture in it; get it again"];
            assert!(output.status.code() == Some(1) && words.iter().all(|word| stderr.contains(word)), "{line}: {stderr}");
        }
        ok(at, &format!("{TRAIN} --skip-unreadable 1 --dry-run"));
        ok(at, "data info -d images --data-dir set --image-size 12 --skip-unreadable 1 -q");
        fs::remove_file(file).unwrap();
    }
}
