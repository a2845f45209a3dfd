//! Small files of data sets, and what an error has to say.

#![allow(dead_code)] // each test uses a part of it

use std::io::Write;

use dsr::data::cifar;
use flate2::Compression;
use flate2::write::GzEncoder;

pub fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn idx_file(sizes: &[u32], values: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, sizes.len() as u8];
    bytes.extend(sizes.iter().flat_map(|size| size.to_be_bytes()));
    bytes.extend(values);
    bytes
}

/// `n` images of `side`×`side`, and their labels 0, 1, …, 9, 0, ….
pub fn idx_pair(n: u32, side: u32) -> [Vec<u8>; 2] {
    let pixels: Vec<u8> = (0..n * side * side).map(|i| (i % 251) as u8).collect();
    let labels: Vec<u8> = (0..n).map(|i| (i % 10) as u8).collect();
    [idx_file(&[n, side, side], &pixels), idx_file(&[n], &labels)]
}

#[track_caller]
pub fn says(error: impl std::fmt::Display, parts: &[&str]) {
    let error = error.to_string();
    for part in parts {
        assert!(error.contains(part), "{error:?} does not say {part:?}");
    }
    assert!(!error.contains('\n'), "{error:?} is more than one line");
}

/// Record `index` of a CIFAR file: its labels, then three planes that differ in every pixel and plane.
pub fn record(labels: &[u8], index: usize) -> Vec<u8> {
    let pixels = (0..3072).map(|i| (i / 1024 * 85 + i % 1024 * 7 + index) as u8);
    labels.iter().copied().chain(pixels).collect()
}

/// The files of a small set, `n` records each, and its names.
pub fn cifar_files(layout: &cifar::Layout, n: usize) -> Vec<(String, Vec<u8>)> {
    let files = layout.train.iter().chain([&layout.test]).enumerate();
    let labels = |i: usize| -> Vec<u8> { layout.labels.iter().map(|&classes| (i * 7 % classes) as u8).collect() };
    let mut all: Vec<(String, Vec<u8>)> =
        files.map(|(part, name)| (name.to_string(), (0..n).flat_map(|i| record(&labels(part * n + i), part * n + i)).collect())).collect();
    let names: String = (0..layout.classes).map(|class| format!("class {class}\n")).collect();
    all.push((layout.names.to_string(), format!("{names}\n").into_bytes()));
    all
}

pub fn tar(files: &[(String, Vec<u8>)], folder: &str) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, format!("{folder}/{name}"), &bytes[..]).unwrap();
    }
    archive.into_inner().unwrap()
}
