//! Archives of CIFAR and files in gzip: damage is found wherever it is.

use std::path::Path;

use dsr::data::{cifar, idx, load};

#[path = "support/data_files.rs"]
mod data_files;
use data_files::{cifar_files, gz, idx_pair, record, says, tar};

#[test]
fn damaged_archives_say_what_is_wrong_and_where() {
    let files = cifar_files(&cifar::CIFAR10, 2);
    let whole = tar(&files, "cifar-10-batches-bin");
    let zipped = gz(&whole);
    let mut lies = tar::Header::new_gnu();
    lies.set_path("x/test_batch.bin").unwrap();
    lies.set_size(3073 << 30);
    lies.set_cksum();
    let mut short = tar::Header::new_gnu();
    short.set_path("x/test_batch.bin").unwrap();
    short.set_size(3073 * 9);
    short.set_cksum();
    let wrong = tar(&[("test_batch.bin".into(), [record(&[1], 0), record(&[77], 1)].concat())], "x");
    let cases: Vec<(&str, Vec<u8>, &[&str])> = vec![
        ("empty", vec![], &["has no data_batch_1.bin in it"]),
        ("a page", [&b"<html>"[..], &[b' '; 2000]].concat(), &["is damaged", "download it again"]),
        ("gzip cut", zipped[..zipped.len() / 2].to_vec(), &["truncated", "download it again"]),
        ("tar cut", whole[..20_000].to_vec(), &["truncated: ends in record", "download it again"]),
        (
            "other set",
            gz(&tar(&cifar_files(&cifar::CIFAR100, 1), "cifar-100-binary")),
            &["has no data_batch_1.bin in it", "cifar-10-binary"],
        ),
        ("one missing", gz(&tar(&files[1..], "x")), &["has no data_batch_1.bin in it"]),
        ("wrong label", wrong, &["set.tar.gz/x/test_batch.bin: record 1 has label 77"]),
        ("absurd size", lies.as_bytes().to_vec(), &["x/test_batch.bin: has 3299608625152 bytes, more than"]),
        ("no content", short.as_bytes().to_vec(), &["x/test_batch.bin: is truncated: ends in record 0 of 9"]),
    ];
    for (what, bytes, parts) in cases {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("set.tar.gz");
        std::fs::write(&path, bytes).unwrap();
        let error = load("cifar10", Some(&path)).expect_err(what);
        says(&error, parts);
        says(&error, &["set.tar.gz"]);
    }
}

#[test]
fn every_flipped_bit_of_a_gzip_stream_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("set.tar.gz");
    let archive = gz(&tar(&cifar_files(&cifar::CIFAR10, 2), "cifar-10-batches-bin"));
    let images = gz(&idx_pair(40, 8)[0]);
    let good = idx::images(Path::new("images.gz"), &images[..]).unwrap();
    // Behind the header of 10 bytes, which holds a time and what else has no checksum.
    let places = |len: usize| (0..120).map(move |i| 10 + i * (len - 11) / 119);
    std::fs::write(&path, &archive).unwrap();
    let whole = load("cifar10", Some(&path)).unwrap();
    let mut refused = 0;
    for place in places(archive.len()) {
        let mut bytes = archive.clone();
        bytes[place] ^= 1 << (place % 8);
        std::fs::write(&path, bytes).unwrap();
        match load("cifar10", Some(&path)) {
            Ok(set) => assert_eq!(set, whole, "bit of byte {place}"), // a copy of the same bytes from another place
            Err(error) => {
                says(error, &["set.tar.gz"]);
                refused += 1;
            }
        }
    }
    assert!(refused > 110, "{refused} of 120");
    for place in places(images.len()) {
        let mut bytes = images.clone();
        bytes[place] ^= 1 << (place % 8);
        let read = idx::images(Path::new("images.gz"), &bytes[..]);
        assert!(read.is_err() || read.is_ok_and(|read| read == good), "bit of byte {place}");
    }
}

#[test]
fn names_in_an_archive_may_be_long_but_not_endless() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("set.tar.gz");
    let files = cifar_files(&cifar::CIFAR100, 2);
    std::fs::write(&path, gz(&tar(&files, "cifar-100-binary"))).unwrap();
    let expected = load("cifar100", Some(&path)).unwrap();
    std::fs::write(&path, gz(&tar(&files, &["a folder with a long name"; 9].join("/")))).unwrap();
    assert_eq!(load("cifar100", Some(&path)).unwrap(), expected);
    for kind in [tar::EntryType::GNULongName, tar::EntryType::XHeader] {
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(1 << 20);
        header.set_path("long").unwrap();
        header.set_cksum();
        archive.append(&header, &vec![b'a'; 1 << 20][..]).unwrap();
        std::fs::write(&path, gz(&archive.into_inner().unwrap())).unwrap();
        says(load("cifar100", Some(&path)).unwrap_err(), &["set.tar.gz: is damaged (a file in it has a name of 1048576 bytes)"]);
    }
}
