//! Every reader on many damaged files: no panic, and no more memory than docs/data.md says, as an allocator counts it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Cursor, Write};
use std::path::Path;

use dsr::data::aedat::parse as recording;
use dsr::data::picture::{allowed_pixels, check_bytes, parse as picture};
use dsr::data::{cifar, idx, load};
use flate2::Compression;
use flate2::write::GzEncoder;
use jpeg_encoder::SamplingFactor;
use rayon::prelude::*;

#[path = "support/streamed_sets.rs"]
mod streamed_sets;
use streamed_sets::{aedat2, events, jpeg};

/// Counts the bytes that each thread holds, and the most that it held.
struct Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static MOST: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    let held = HELD.get() + bytes;
    HELD.set(held);
    MOST.set(MOST.get().max(held));
}

// SAFETY: all is handed to the system's allocator; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most bytes that `work` held on this thread beyond what was held before.
fn peak<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.get();
    MOST.set(before);
    let result = work();
    (result, (MOST.get() - before) as usize)
}

/// Numbers that look random, from a seed.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed ^ (mixed >> 29)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}

/// A file with one to three kinds of damage.
fn damaged(good: &[u8], seed: u64) -> Vec<u8> {
    let mut dice = Dice(seed);
    let mut bytes = good.to_vec();
    for _ in 0..=dice.below(3) {
        // Headers are hit more often than their share.
        let reach = if dice.below(2) == 0 { 64.min(bytes.len()) } else { bytes.len() };
        let at = dice.below(reach);
        match dice.below(7) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..(at + 1 + dice.below(40)).min(bytes.len()))),
            2 => {
                let new: Vec<u8> = (0..=dice.below(20)).map(|_| dice.next() as u8).collect();
                bytes.splice(at..at, new);
            }
            3 => {
                let huge = [&[0xff; 4][..], &[0x7f, 0xff, 0xff, 0xff], &[0xff, 0xff, 0xff, 0x7f], &[0, 1, 0, 0], &[0xff, 0xff]];
                for (to, &byte) in bytes[at..].iter_mut().zip(huge[dice.below(5)]) {
                    *to = byte;
                }
            }
            4 => {
                let end = (at + dice.below(200)).min(bytes.len());
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << dice.below(8);
                }
            }
        }
    }
    bytes
}

/// Reads `n` damaged copies of a file; each takes at most `bound` bytes, of the length of the copy. Gives how many could be read.
fn survives(what: &str, n: u64, good: &[u8], read: impl Fn(&[u8]) -> bool + Sync, bound: impl Fn(usize) -> usize + Sync) -> usize {
    assert!(read(good), "{what}: the good file");
    let one = |seed: u64| {
        let bytes = damaged(good, seed);
        let (ok, most) = peak(|| read(&bytes));
        assert!(most <= bound(bytes.len()), "{what}, seed {seed}: {most} bytes for a file of {}", bytes.len());
        usize::from(ok)
    };
    (0..n).into_par_iter().map(one).sum()
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)).unwrap()
}

fn photo() -> image::RgbImage {
    image::RgbImage::from_fn(40, 30, |x, y| image::Rgb([(x * 6) as u8, (y * 8) as u8, (x * y) as u8]))
}

fn encoded(format: image::ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    photo().write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// docs/data.md: 16 bytes per pixel.
fn picture_bound(len: usize) -> usize {
    16 * allowed_pixels(len) as usize
}

#[test]
fn damaged_pictures_harm_nobody() {
    let files = [
        ("JPEG", jpeg(&photo(), SamplingFactor::R_4_4_4)),
        ("JPEG 4:2:0", jpeg(&photo(), SamplingFactor::R_4_2_0)),
        ("JPEG in scans", fixture("damaged/nonint420.jpg")),
        ("JPEG with fine colours", fixture("damaged/panic.jpg")),
        ("progressive JPEG", fixture("photos/progressive.jpg")),
        ("CMYK JPEG", fixture("photos/cmyk.jpg")),
        ("PNG", encoded(image::ImageFormat::Png)),
        ("palette PNG", fixture("photos/palette.png")),
        ("WebP", encoded(image::ImageFormat::WebP)),
        ("BMP", encoded(image::ImageFormat::Bmp)),
        ("PNM", encoded(image::ImageFormat::Pnm)),
    ];
    let path = Path::new("x");
    for (what, good) in files {
        let read = survives(what, 3000, &good, |bytes| picture(path, bytes).is_ok(), picture_bound);
        let sound = survives(what, 500, &good, |bytes| check_bytes(path, bytes).is_ok(), picture_bound);
        println!("{what}: {read} of 3000 read, {sound} of 500 sound");
    }
}

/// docs/data.md: four times the length, and 128 KiB.
fn values_bound(len: usize) -> usize {
    4 * len + (1 << 17)
}

#[test]
fn damaged_images_in_memory_harm_nobody() {
    let images = [&[0, 0, 8, 3, 0, 0, 0, 9, 0, 0, 0, 8, 0, 0, 0, 8][..], &[7; 576]].concat();
    let labels = [&[0, 0, 8, 1, 0, 0, 0, 9][..], &[3; 9]].concat();
    let records: Vec<u8> = (0..4 * 3074).map(|i| if i % 3074 < 2 { 5 } else { i as u8 }).collect();
    let path = Path::new("x");
    let zipped_bound = |len: usize| 1100 * len + (1 << 18); // deflate unpacks a byte to at most 1032
    survives("IDX", 15_000, &images, |bytes| idx::images(path, bytes).is_ok(), values_bound);
    survives("IDX labels", 10_000, &labels, |bytes| idx::labels(path, bytes, 10).is_ok(), |len| 10 * len + (1 << 17));
    survives("IDX.gz", 10_000, &gz(&images), |bytes| idx::images(path, bytes).is_ok(), zipped_bound);
    let append = |bytes: &[u8], length: u64| {
        let mut split = cifar::empty_split();
        cifar::append_records(path, length, bytes, &cifar::CIFAR100, &mut split).is_ok()
    };
    // Room is taken for 1024 records at a time.
    let records_bound = |len: usize| 2 * len + 1024 * 3100 + (1 << 16);
    survives("CIFAR", 5_000, &records, |bytes| append(bytes, bytes.len() as u64), records_bound);
    let ((), most) = peak(|| assert!(!append(&records, 3074 * 300_000)));
    assert!(most < records_bound(records.len()), "{most} bytes on a promise");

    let mut archive = tar::Builder::new(Vec::new());
    for (name, bytes) in [("train.bin", &records[..]), ("test.bin", &records[..3074])] {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        archive.append_data(&mut header, format!("cifar-100-binary/{name}"), bytes).unwrap();
    }
    let archive = archive.into_inner().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let from_disk = |bytes: &[u8]| {
        let path = folder.path().join(format!("{:?}", std::thread::current().id()).replace(['(', ')'], "_"));
        std::fs::write(&path, bytes).unwrap();
        load("cifar100", Some(&path)).is_ok()
    };
    survives("CIFAR.tar", 5_000, &archive, from_disk, |len| 4 * len + 3 * 1024 * 3100);
    survives("CIFAR.tar.gz", 5_000, &gz(&archive), from_disk, |len| 1100 * len + 3 * 1024 * 3100);
}

/// A packet of AEDAT 4.0 with `n` events, unpacked.
fn packet(kind: &[u8; 4], n: usize) -> Vec<u8> {
    let event = |i: usize| [&(1000 + i as i64).to_le_bytes()[..], &[(i % 128) as u8, 0, 5, 0, 1, 0, 0, 0]].concat();
    let fields = [6u16, 8, 4].iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>();
    let table = [&6i32.to_le_bytes()[..], &4u32.to_le_bytes()].concat();
    let elements: Vec<u8> = (0..n).flat_map(event).collect();
    let buffer = [&14u32.to_le_bytes()[..], kind, &fields, &table, &(n as u32).to_le_bytes(), &elements].concat();
    [&(buffer.len() as u32).to_le_bytes()[..], &buffer].concat()
}

/// A file of AEDAT 4.0 with these packets, each as it is packed, of streams 0, 1, 1, 1, ….
fn aedat4(compression: u8, packets: &[Vec<u8>]) -> Vec<u8> {
    aedat4_of(compression, packets, |place| place.min(1))
}

fn aedat4_of(compression: u8, packets: &[Vec<u8>], stream: impl Fn(u32) -> u32) -> Vec<u8> {
    let table = [&8i32.to_le_bytes()[..], &i32::from(compression).to_le_bytes(), &(-1i64).to_le_bytes()].concat();
    let fields = [8u16, 16, 4, 8].iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>();
    let header = [&20u32.to_le_bytes()[..], b"IOHE", &[0; 4], &fields, &table].concat();
    let packets = packets
        .iter()
        .zip(0..)
        .flat_map(|(packet, place)| [&stream(place).to_le_bytes()[..], &(packet.len() as u32).to_le_bytes(), packet].concat());
    [&b"#!AER-DAT4.0\r\n"[..], &(header.len() as u32).to_le_bytes(), &header].concat().into_iter().chain(packets).collect()
}

fn lz4(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

/// docs/data.md: 64 bytes of events per byte and at least 1 MiB, as they are packed and as they are kept, and 32 MiB for unpacking.
fn recording_bound(len: usize) -> usize {
    4 * (64 * len).max(1 << 20) + (32 << 20)
}

#[test]
fn damaged_recordings_harm_nobody() {
    let path = Path::new("x");
    let read = |bytes: &[u8]| recording(path, bytes).is_ok();
    let pack = |pack: fn(&[u8]) -> Vec<u8>| [pack(&packet(b"IMUS", 5)), pack(&packet(b"EVTS", 40)), pack(&packet(b"EVTS", 3))];
    let files = [
        ("AEDAT 2.0", aedat2(&events(60, 1))),
        ("AEDAT 4.0", aedat4(0, &pack(<[u8]>::to_vec))),
        ("AEDAT 4.0, LZ4", aedat4(1, &pack(lz4))),
        ("AEDAT 4.0, ZSTD", aedat4(3, &pack(zstd))),
    ];
    for (what, good) in files {
        println!("{what}: {} of 10000 read", survives(what, 10_000, &good, read, recording_bound));
    }
}

#[test]
fn small_files_do_not_become_large() {
    let path = Path::new("bomb");
    // Events: 3 million in 48 MB, packed to a thousandth; and many packets of something else.
    let plain = packet(b"EVTS", 3);
    let many = [&plain[..], &vec![0; 200 << 20]].concat();
    let bombs = [aedat4(1, &[lz4(&many)]), aedat4(3, &[zstd(&many)])];
    for bomb in bombs {
        let (result, most) = peak(|| recording(path, &bomb));
        let error = result.map(|events| events.len()).unwrap_err().to_string();
        assert!(error.contains("unpack to more than the") && most < recording_bound(bomb.len()), "{error}: {most} of {}", bomb.len());
    }
    let other = zstd(&[&packet(b"IMUS", 1)[..], &vec![0; 16 << 20]].concat());
    let others = vec![other; 300];
    for (file, problem) in [(aedat4(3, &others), "has no events"), (aedat4_of(3, &others, |place| place), "it has more than 64 streams")] {
        let (result, most) = peak(|| recording(path, &file));
        assert!(result.unwrap_err().to_string().contains(problem) && most < (40 << 20), "{problem}: {most}");
    }

    // Pictures: a PNG of 400 million black pixels, thin ones, and a plain one.
    for (width, height, refused) in [(20_000, 20_000, true), (1_000_000, 1, false), (1, 1_000_000, false), (2000, 2000, false)] {
        let mut png = Cursor::new(Vec::new());
        image::GrayImage::new(width, height).write_to(&mut png, image::ImageFormat::Png).unwrap();
        let bytes = png.into_inner();
        let (result, most) = peak(|| picture(path, &bytes).map(|image| image.dimensions()));
        println!("{width}x{height}: {} bytes, {most} held, {result:?}", bytes.len());
        assert!(most < picture_bound(bytes.len()) && result.is_err() == refused, "{width}x{height}: {most}, {result:?}");
    }
    // JPEGs whose headers promise as much as is believed.
    for name in ["full.JPEG", "progressive.jpg", "cmyk.jpg"] {
        let mut bytes = fixture(&format!("photos/{name}"));
        let side = allowed_pixels(bytes.len()).isqrt() as u16;
        let frame = bytes.windows(2).position(|pair| pair == [0xff, 0xc0] || pair == [0xff, 0xc2]).unwrap();
        bytes[frame + 5..frame + 9].copy_from_slice(&[side.to_be_bytes(), side.to_be_bytes()].concat());
        let (result, most) = peak(|| picture(path, &bytes).map(|image| image.dimensions()));
        println!("{name} as {side}x{side}: {} bytes, {most} held, {result:?}", bytes.len());
        assert!(most < picture_bound(bytes.len()), "{name}: {most}, {result:?}");
    }
    // The middle of a strip is made of what the middle sees.
    for photo in [[1, 1_000_000], [1_000_000, 1]] {
        let pixels = vec![9; 3_000_000];
        let (middle, most) = peak(|| dsr::data::photos::middle(&pixels, photo, 256, 224));
        assert!(middle == vec![9; 224 * 224 * 3] && most < (4 << 20), "{photo:?}: {most}");
    }
}

#[test]
fn a_long_name_in_an_archive_takes_no_memory() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bomb.tar.gz");
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::GNULongName);
    header.set_size(900_000_000);
    header.set_cksum();
    let mut encoder = GzEncoder::new(std::fs::File::create(&path).unwrap(), Compression::fast());
    encoder.write_all(header.as_bytes()).unwrap();
    (0..300).for_each(|_| encoder.write_all(&vec![b'a'; 1 << 20]).unwrap());
    encoder.finish().unwrap();
    let (result, most) = peak(|| load("cifar10", Some(&path)));
    let error = result.map(|set| set.name).unwrap_err().to_string();
    assert!(error.contains("bomb.tar.gz: is damaged (a file in it has a name of 900000000 bytes)") && most < (1 << 20), "{error}: {most}");
}
