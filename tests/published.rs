//! Files beside the published ones of their names.

#[path = "support/command.rs"]
mod command;
#[path = "support/data_files.rs"]
mod data_files;

use std::fs;

use command::{dsr, ok};
use data_files::{cifar_files, gz, idx_file, tar};
use dsr::data::cifar::CIFAR10;
use dsr::data::published::compare;
use serde_json::Value;
use tempfile::tempdir;

/// The checksums are those of RFC 1321; a million times `a` is longer than what is read at a time.
#[test]
fn files_are_compared_by_name_and_by_checksum() {
    let folder = tempdir().unwrap();
    let a = vec![b'a'; 1_000_000];
    for (name, bytes) in [("empty", &b""[..]), ("right", b"abc"), ("wrong", b"abd"), ("renamed", &a), ("unknown", b"x")] {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    let abc = "900150983cd24fb0d6963f7d28e17f72";
    let million = "7707d6ae4e027c70eea2a935c2296f21";
    let table = [("empty", "d41d8cd98f00b204e9800998ecf8427e"), ("right", abc), ("wrong", abc), ("million", million)];
    let files = ["empty", "right", "wrong", "renamed", "unknown"].map(|name| folder.path().join(name));
    let found = compare(&files, &table).unwrap();
    let shown: Vec<_> = found.iter().map(|file| (file.file.rsplit('/').next().unwrap(), file.published.as_str(), file.is_same())).collect();
    assert_eq!(shown, [("empty", table[0].1, true), ("right", abc, true), ("wrong", abc, false), ("renamed", million, true)]);
    assert_eq!(found[2].md5, "4911e516e5aa21d327512e0c8b197616");
    let error = compare(&[folder.path().join("absent")], &table).unwrap_err().to_string();
    assert!(error.contains("absent: No such file"), "{error}");
}

/// A set of the right counts that was packed anew is good, with a note for each file; plain files have no published checksum.
#[test]
fn a_set_that_is_packed_anew_verifies_with_notes() {
    let folder = tempdir().unwrap();
    let raw = folder.path().join("FashionMNIST/raw");
    fs::create_dir_all(&raw).unwrap();
    for (part, n) in [("train", 60_000u32), ("t10k", 10_000)] {
        let labels: Vec<u8> = (0..n).map(|i| (i % 10) as u8).collect();
        fs::write(raw.join(format!("{part}-labels-idx1-ubyte.gz")), gz(&idx_file(&[n], &labels))).unwrap();
        let images = idx_file(&[n, 28, 28], &vec![7; 784 * n as usize]);
        let (name, images) = if part == "train" { ("train-images-idx3-ubyte", images) } else { ("t10k-images-idx3-ubyte.gz", gz(&images)) };
        fs::write(raw.join(name), images).unwrap();
    }
    let line = "data verify -d fashion-mnist --data-dir .";
    let (text, notes) = ok(folder.path(), line);
    assert!(text.starts_with("fashion-mnist: ok, 60000 + 10000 images"), "{text}");
    assert!(text.ends_with("\n0 of 3 files as published (md5)\n"), "{text}");
    let note = "note: ./FashionMNIST/raw/train-labels-idx1-ubyte.gz: not the published file (md5 ";
    assert!(notes.lines().count() == 3 && notes.contains(note) && notes.contains("published 25c81989df183df01b3e8a0aad5dffbe)"), "{notes}");
    let (json, quiet) = ok(folder.path(), &format!("{line} -q -o json"));
    let json: Value = serde_json::from_str(&json).unwrap();
    assert!(json["ok"] == true && quiet.is_empty(), "{json} {quiet}");
    assert_eq!(json["files"][1]["file"], "./FashionMNIST/raw/t10k-images-idx3-ubyte.gz");
    assert_eq!(json["files"][1]["published"], "bef4ecab320f06d8554ea6380940ec79");
    let (csv, _) = ok(folder.path(), &format!("{line} -q -o csv"));
    assert!(csv.starts_with("dataset,files,files_as_published,ok,") && csv.contains("\nfashion-mnist,3,0,true,"), "{csv}");
    let (text, notes) = ok(folder.path(), "data verify -d digits-8x8");
    assert!(!text.contains("published") && notes.is_empty(), "{text}{notes}");
}

/// The archive is the published one only with its checksum, in its folder and by its name; files unpacked beside it are what is read.
#[test]
fn an_archive_of_another_checksum_is_named() {
    let folder = tempdir().unwrap();
    let files = cifar_files(&CIFAR10, 2);
    fs::write(folder.path().join("cifar-10-binary.tar.gz"), gz(&tar(&files, "cifar-10-batches-bin"))).unwrap();
    let verify = |place: &str| {
        let output = dsr(folder.path(), &format!("data verify -d cifar10 --data-dir {place}"));
        assert_eq!(output.status.code(), Some(1)); // too few images
        String::from_utf8(output.stderr).unwrap()
    };
    let note = "note: ./cifar-10-binary.tar.gz: not the published file (md5 ";
    let stderr = verify(".");
    assert!(
        stderr.starts_with(note) && stderr.contains(", published c32a1d4ab5d03f1284b67883e8d87530): packed anew, or changed\n"),
        "{stderr}"
    );
    assert!(stderr.contains("error: cifar10: not the published set: 10 training images"), "{stderr}");
    assert!(verify("cifar-10-binary.tar.gz").starts_with(&note.replace("./", "")));
    fs::copy(folder.path().join("cifar-10-binary.tar.gz"), folder.path().join("mine.tar.gz")).unwrap();
    assert!(verify("mine.tar.gz").starts_with("error: "));
    for (name, bytes) in files {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    assert!(verify(".").starts_with("error: "));
    // The record is still trained on without a word.
    let (_, stderr) = ok(folder.path(), "data info -d cifar10 --data-dir cifar-10-binary.tar.gz");
    assert!(stderr.is_empty(), "{stderr}");
}
