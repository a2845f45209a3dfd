//! Sets as somebody may have them: folders of pictures, lists, arrays, CIFAR's pickles.

#![allow(dead_code)] // each test uses a part of it

use std::fs;
use std::io::{Cursor, Write};
use std::path::Path;

/// A picture of a class: its colour, with noise that depends on the number.
pub fn picture(class: usize, number: u32, [width, height]: [u32; 2]) -> image::RgbImage {
    let pixel = |x: u32, y: u32| {
        let noise = ((x * 31 + y * 17 + number * 7).wrapping_mul(2_654_435_761) >> 26) as u8;
        let mut pixel = [noise; 3];
        pixel[class % 3] += 150;
        image::Rgb(pixel)
    };
    image::RgbImage::from_fn(width, height, pixel)
}

/// `n` pictures of different sizes in `folder`.
pub fn pictures(folder: &Path, class: usize, n: u32) {
    fs::create_dir_all(folder).unwrap();
    for number in 0..n {
        picture(class, number, [14 + 5 * (number % 4), 12 + 3 * (number % 3)]).save(folder.join(format!("{number:03}.png"))).unwrap();
    }
}

/// Three classes, in folders for each split.
pub fn splits(root: &Path, test: &str, [train_n, test_n]: [u32; 2]) {
    for (class, name) in ["ash", "birch", "oak"].iter().enumerate() {
        pictures(&root.join("train").join(name), class, train_n);
        pictures(&root.join(test).join(name), class, test_n);
    }
}

/// Three classes in one heap.
pub fn heap(root: &Path, n: u32) {
    (0..3).zip(["ash", "birch", "oak"]).for_each(|(class, name)| pictures(&root.join(name), class, n));
}

/// An array as NumPy saves it: of this type and these sizes.
pub fn npy(descr: &str, sizes: &[usize], values: &[u8]) -> Vec<u8> {
    let sizes: String = sizes.iter().map(|size| format!("{size}, ")).collect();
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({}), }}", sizes.trim_end());
    header.push_str(&" ".repeat(63 - (10 + header.len()) % 64));
    header.push('\n');
    [b"\x93NUMPY\x01\0", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), values].concat()
}

/// An archive of arrays by name.
pub fn npz(arrays: &[(&str, Vec<u8>)], packed: bool) -> Vec<u8> {
    let method = if packed { zip::CompressionMethod::Deflated } else { zip::CompressionMethod::Stored };
    let options = zip::write::SimpleFileOptions::default().compression_method(method);
    let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in arrays {
        archive.start_file(format!("{name}.npy"), options).unwrap();
        archive.write_all(bytes).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

/// Bytes of `n` images of these sizes in three classes, of which each has a channel of its own, and their labels as 64-bit integers.
pub fn images(n: usize, [height, width, channels]: [usize; 3], first: usize) -> (Vec<u8>, Vec<u8>) {
    let value = |image: usize, at: usize| {
        let noise = (((image + first) * 131 + at * 17).wrapping_mul(2_654_435_761) >> 26 & 63) as u8;
        if at % channels == image % 3 % channels { noise + 150 } else { noise }
    };
    let size = height * width * channels;
    let pixels = (0..n).flat_map(|image| (0..size).map(move |at| value(image, at))).collect();
    (pixels, (0..n).flat_map(|image| (image as i64 % 3).to_le_bytes()).collect())
}

/// The arrays of a set of 24 + 9 images of 6×5 in colour.
pub fn arrays() -> Vec<(&'static str, Vec<u8>)> {
    let ((x, y), (x_test, y_test)) = (images(24, [6, 5, 3], 0), images(9, [6, 5, 3], 100));
    vec![
        ("x_train", npy("|u1", &[24, 6, 5, 3], &x)),
        ("y_train", npy("<i8", &[24], &y)),
        ("x_test", npy("|u1", &[9, 6, 5, 3], &x_test)),
        ("y_test", npy("<i8", &[9], &y_test)),
    ]
}

/// A text as Python 2 pickles it, kept under the next number.
fn text(out: &mut Vec<u8>, text: &[u8], next: &mut u32) {
    match u8::try_from(text.len()) {
        Ok(length) => out.extend([b'U', length]),
        Err(_) => out.extend([&b"T"[..], &(text.len() as u32).to_le_bytes()].concat()),
    }
    out.extend(text);
    keep(out, next);
}

fn keep(out: &mut Vec<u8>, next: &mut u32) {
    match u8::try_from(*next) {
        Ok(number) => out.extend([b'q', number]),
        Err(_) => out.extend([&b"r"[..], &next.to_le_bytes()].concat()),
    }
    *next += 1;
}

fn number(out: &mut Vec<u8>, number: u32) {
    match (u8::try_from(number), u16::try_from(number)) {
        (Ok(number), _) => out.extend([b'K', number]),
        (_, Ok(number)) => out.extend([&b"M"[..], &number.to_le_bytes()].concat()),
        _ => out.extend([&b"J"[..], &number.to_le_bytes()].concat()),
    }
}

/// A batch of CIFAR for Python, as Python 2 wrote it: labels under `key`, rows of 3072 bytes, names of files.
pub fn batch(key: &str, labels: &[u8], rows: &[u8]) -> Vec<u8> {
    let (mut out, mut next) = (b"\x80\x02}q\x01(".to_vec(), 2);
    let (out, next) = (&mut out, &mut next);
    text(out, b"batch_label", next);
    text(out, b"training batch 1 of 5", next);
    text(out, key.as_bytes(), next);
    out.push(b']');
    keep(out, next);
    out.push(b'(');
    labels.iter().for_each(|&label| number(out, label.into()));
    out.push(b'e');
    text(out, b"data", next);
    out.extend(b"cnumpy.core.multiarray\n_reconstruct\n");
    keep(out, next);
    out.extend(b"cnumpy\nndarray\n");
    keep(out, next);
    out.extend(b"K\0\x85U\x01b\x87R");
    keep(out, next);
    out.extend(b"(K\x01");
    number(out, labels.len() as u32);
    number(out, 3072);
    out.extend(b"\x86cnumpy\ndtype\n");
    keep(out, next);
    out.extend(b"U\x02u1K\0K\x01\x87R");
    keep(out, next);
    out.extend(b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb\x89T");
    out.extend((rows.len() as u32).to_le_bytes());
    out.extend(rows);
    out.extend(b"tb");
    text(out, b"filenames", next);
    out.push(b']');
    keep(out, next);
    out.push(b'(');
    (0..labels.len()).for_each(|file| text(out, format!("a_{file:06}.png").as_bytes(), next));
    out.extend(b"eu.");
    out.clone()
}

/// The names of CIFAR-10, as the published file has them, byte for byte.
pub fn batches_meta() -> Vec<u8> {
    let (mut out, mut next) = (b"\x80\x02}q\x01(".to_vec(), 2);
    let (out, next) = (&mut out, &mut next);
    text(out, b"num_cases_per_batch", next);
    number(out, 10_000);
    text(out, b"label_names", next);
    out.push(b']');
    keep(out, next);
    out.push(b'(');
    let names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];
    names.iter().for_each(|name| text(out, name.as_bytes(), next));
    out.push(b'e');
    text(out, b"num_vis", next);
    number(out, 3072);
    out.extend(b"u.");
    out.clone()
}
