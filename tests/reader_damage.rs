//! Every reader on 100,000 damaged files: no panic, and no more memory than docs/data.md says, as an allocator counts it. A test for each
//! format, so that they run side by side; files are small, so that each takes microseconds.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};

use dsr::bench::baseline::Baseline;
use dsr::checkpoint;
use dsr::data::aedat::parse as recording;
use dsr::data::picture::{allowed_pixels, check_bytes, parse as picture};
use dsr::data::{cifar, idx, load};
use dsr::settings::{Config, recipes};
use dsr::training::run_folder::{Standing, standing};
use flate2::Compression;
use flate2::write::GzEncoder;
use jpeg_encoder::{ColorType, Encoder, SamplingFactor};
use rayon::prelude::*;

#[path = "support/broken_files.rs"]
#[allow(dead_code)]
mod broken_files;
#[path = "support/streamed_sets.rs"]
mod streamed_sets;
use broken_files::{TINY, checkpoint_with};
use streamed_sets::{aedat2, events, jpeg};

/// Damaged files of a reader.
const EACH: u64 = 100_000;

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

fn encoded(photo: &image::RgbImage, format: image::ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    photo.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// docs/data.md: 16 bytes per pixel.
fn picture_bound(len: usize) -> usize {
    16 * allowed_pixels(len) as usize
}

/// Reads damaged copies of these files as photos, `n` of each, and looks closely at some more.
fn pictures(n: u64, files: &[(&str, Vec<u8>)]) {
    let path = Path::new("x");
    for (what, good) in files {
        let read = survives(what, n, good, |bytes| picture(path, bytes).is_ok(), picture_bound);
        let sound = survives(what, n / 6, good, |bytes| check_bytes(path, bytes).is_ok(), picture_bound);
        println!("{what}: {read} of {n} read, {sound} of {} sound", n / 6);
    }
}

/// Few pixels, so that a header with more of them is most of what a reader can meet.
fn small() -> image::RgbImage {
    image::imageops::crop_imm(&photo(), 3, 2, 9, 7).to_image()
}

#[test]
fn damaged_jpegs_harm_nobody() {
    let progressive = || {
        let (mut bytes, photo) = (Vec::new(), small());
        let mut encoder = Encoder::new(&mut bytes, 85);
        encoder.set_progressive(true);
        encoder.encode(photo.as_raw(), photo.width() as u16, photo.height() as u16, ColorType::Rgb).unwrap();
        bytes
    };
    let small = [
        ("small JPEG", jpeg(&small(), SamplingFactor::R_4_4_4)),
        ("small JPEG 4:2:0", jpeg(&small(), SamplingFactor::R_4_2_0)),
        ("small progressive JPEG", progressive()),
    ];
    pictures(EACH / 3 + 1, &small);
    let large = [
        ("JPEG", jpeg(&photo(), SamplingFactor::R_4_4_4)),
        ("JPEG 4:2:0", jpeg(&photo(), SamplingFactor::R_4_2_0)),
        ("JPEG in scans", fixture("damaged/nonint420.jpg")),
        ("JPEG with fine colours", fixture("damaged/panic.jpg")),
        ("progressive JPEG", fixture("photos/progressive.jpg")),
        ("CMYK JPEG", fixture("photos/cmyk.jpg")),
    ];
    pictures(3000, &large);
}

#[test]
fn damaged_pngs_harm_nobody() {
    pictures(EACH, &[("small PNG", encoded(&small(), image::ImageFormat::Png))]);
    pictures(3000, &[("PNG", encoded(&photo(), image::ImageFormat::Png)), ("palette PNG", fixture("photos/palette.png"))]);
}

#[test]
fn damaged_webps_harm_nobody() {
    pictures(EACH, &[("small WebP", encoded(&small(), image::ImageFormat::WebP))]);
    pictures(3000, &[("WebP", encoded(&photo(), image::ImageFormat::WebP))]);
}

#[test]
fn damaged_bmps_harm_nobody() {
    pictures(EACH, &[("small BMP", encoded(&small(), image::ImageFormat::Bmp))]);
    pictures(3000, &[("BMP", encoded(&photo(), image::ImageFormat::Bmp))]);
}

#[test]
fn damaged_pnms_harm_nobody() {
    pictures(EACH, &[("small PNM", encoded(&small(), image::ImageFormat::Pnm))]);
    pictures(3000, &[("PNM", encoded(&photo(), image::ImageFormat::Pnm))]);
}

/// docs/data.md: four times the length, and 128 KiB.
fn values_bound(len: usize) -> usize {
    4 * len + (1 << 17)
}

/// Deflate unpacks a byte to at most 1032.
fn zipped_bound(len: usize) -> usize {
    1100 * len + (1 << 18)
}

#[test]
fn damaged_idx_files_harm_nobody() {
    let images = [&[0, 0, 8, 3, 0, 0, 0, 9, 0, 0, 0, 8, 0, 0, 0, 8][..], &[7; 576]].concat();
    let labels = [&[0, 0, 8, 1, 0, 0, 0, 9][..], &[3; 9]].concat();
    let path = Path::new("x");
    survives("IDX", EACH, &images, |bytes| idx::images(path, bytes).is_ok(), values_bound);
    survives("IDX labels", EACH, &labels, |bytes| idx::labels(path, bytes, 10).is_ok(), |len| 10 * len + (1 << 17));
    survives("IDX.gz", EACH, &gz(&images), |bytes| idx::images(path, bytes).is_ok(), zipped_bound);
}

/// So many records of CIFAR-100.
fn records(n: usize) -> Vec<u8> {
    (0..n * 3074).map(|i| if i % 3074 < 2 { 5 } else { i as u8 }).collect()
}

/// A file of its own for each thread, in memory where the system has such a place.
fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}

fn on_disk(folder: &tempfile::TempDir, bytes: &[u8]) -> PathBuf {
    let path = folder.path().join(format!("{:?}", std::thread::current().id()).replace(['(', ')'], "_"));
    std::fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn damaged_records_harm_nobody() {
    let path = Path::new("x");
    let append = |bytes: &[u8], length: u64| {
        let mut split = cifar::empty_split();
        cifar::append_records(path, length, bytes, &cifar::CIFAR100, &mut split).is_ok()
    };
    // Room is taken for 1024 records at a time.
    let records_bound = |len: usize| 2 * len + 1024 * 3100 + (1 << 16);
    survives("CIFAR", EACH, &records(1), |bytes| append(bytes, bytes.len() as u64), records_bound);
    survives("four of CIFAR", 5_000, &records(4), |bytes| append(bytes, bytes.len() as u64), records_bound);
    let ((), most) = peak(|| assert!(!append(&records(4), 3074 * 300_000)));
    assert!(most < records_bound(4 * 3074), "{most} bytes on a promise");
}

fn archive(train: &[u8]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, bytes) in [("train.bin", train), ("test.bin", &train[..3074])] {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        archive.append_data(&mut header, format!("cifar-100-binary/{name}"), bytes).unwrap();
    }
    archive.into_inner().unwrap()
}

#[test]
fn damaged_archives_harm_nobody() {
    let folder = scratch();
    let from_disk = |bytes: &[u8]| load("cifar100", Some(&on_disk(&folder, bytes))).is_ok();
    survives("CIFAR.tar", EACH, &archive(&records(1)), from_disk, |len| 4 * len + 3 * 1024 * 3100);
    survives("larger CIFAR.tar", 5_000, &archive(&records(4)), from_disk, |len| 4 * len + 3 * 1024 * 3100);
}

#[test]
fn damaged_gzip_streams_harm_nobody() {
    let folder = scratch();
    let from_disk = |bytes: &[u8]| load("cifar100", Some(&on_disk(&folder, bytes))).is_ok();
    survives("CIFAR.tar.gz", EACH, &gz(&archive(&records(1))), from_disk, |len| 1100 * len + 3 * 1024 * 3100);
    survives("larger CIFAR.tar.gz", 5_000, &gz(&archive(&records(4))), from_disk, |len| 1100 * len + 3 * 1024 * 3100);
}

/// A small network with its settings.
fn network() -> (String, Config, dsr::Network) {
    let settings = format!("model = 'preact-resnet'\n{TINY}").replace("widths = [4]", "widths = [1]");
    let config = recipes::resolve(&Config::default(), &[recipes::parse(&settings, "test").unwrap()]).unwrap();
    let network = config.network([8, 8, 1], 10).unwrap();
    (settings, config, network)
}

/// A header as JSON, once for each question, and the numbers.
fn checkpoint_bound(len: usize) -> usize {
    64 * len + (1 << 18)
}

#[test]
fn damaged_checkpoints_harm_nobody() {
    let folder = scratch();
    let (settings, config, network) = network();
    let good = folder.path().join("good");
    let about = checkpoint::About { config_toml: &settings, ..checkpoint::About::default() };
    let (optimizer, progress) = (config.optimizer(network.len()), checkpoint::Progress::default());
    checkpoint::save(&good, &network, &optimizer, &progress, about).unwrap();
    let load = |bytes: &[u8]| checkpoint::load(&on_disk(&folder, bytes), &mut network.clone(), None).is_ok();
    let bytes = std::fs::read(&good).unwrap();
    println!("checkpoint: {} read", survives("checkpoint", EACH, &bytes, load, checkpoint_bound));
    // What else is asked of a header.
    let ask = |bytes: &[u8]| {
        let path = on_disk(&folder, bytes);
        let settings = checkpoint::config(&path).ok().flatten();
        let is_run = checkpoint::progress(&path).is_ok() && checkpoint::data(&path).is_ok();
        settings.is_some_and(|text| recipes::trained(&path, &text).is_ok()) && is_run
    };
    survives("checkpoint, its header", 10_000, &bytes, ask, checkpoint_bound);
    checkpoint_with(&folder.path().join("wider"), &settings);
    survives("wider checkpoint", 3000, &std::fs::read(folder.path().join("wider")).unwrap(), ask, checkpoint_bound);
}

/// A `state_dict` has no checksum, so that damaged numbers are read.
#[test]
fn damaged_state_dicts_harm_nobody() {
    let folder = scratch();
    let (_, _, network) = network();
    let plain = folder.path().join("plain");
    checkpoint::export(&plain, &network, false, checkpoint::About::default()).unwrap();
    let read = |bytes: &[u8]| checkpoint::load_start(&on_disk(&folder, bytes), &mut network.clone(), false).is_ok();
    let count = survives("state_dict", EACH, &std::fs::read(&plain).unwrap(), read, checkpoint_bound);
    println!("state_dict: {count} read");
    assert!(count > 1000, "{count}");
}

/// A text may become a tree of small parts.
fn text_bound(len: usize) -> usize {
    256 * len + (1 << 17)
}

#[test]
fn damaged_settings_harm_nobody() {
    let settings = "model = 'preact-resnet'\nwidths = [4]\nblocks = [1]\nlr = 1e-1\n[lif]\ntau = 0.5\n# \u{fc}\nvth = 0.3\n";
    let parse = |bytes: &[u8]| {
        let layer = recipes::parse(&String::from_utf8_lossy(bytes), "x");
        layer.and_then(|layer| recipes::resolve(&Config::default(), &[layer])).is_ok_and(|config| config.check().is_ok())
    };
    println!("settings: {} read", survives("settings", EACH, settings.as_bytes(), parse, text_bound));
}

#[test]
fn damaged_baselines_harm_nobody() {
    let folder = scratch();
    let document = "{\"schema\":{\"name\":\"x\",\"version\":1},\"header\":{\"cpu\":\"a\",\"threads\":2},\"cases\":[\
                    {\"model\":\"m\",\"median_s\":1e-3,\"p25_s\":1.0,\"p75_s\":2.0,\"config\":{\"alpha\":0.5}}]}";
    let here: serde_json::Value = serde_json::from_str(document).unwrap();
    let cases = here["cases"].as_array().unwrap();
    let compared = |bytes: &[u8]| {
        Baseline::read(&on_disk(&folder, bytes), "x", 1).is_ok_and(|baseline| {
            let _ = baseline.check_machine(&here["header"]);
            !baseline.compare(cases, &["model".into()], 0.05).compared.is_empty()
        })
    };
    println!("baseline: {} read", survives("baseline", EACH, document.as_bytes(), compared, text_bound));
}

#[test]
fn damaged_locks_harm_nobody() {
    let folder = scratch();
    let is_free = |bytes: &[u8]| {
        let run = folder.path().join(format!("run {:?}", std::thread::current().id()));
        if !run.is_dir() {
            std::fs::create_dir(&run).unwrap();
        }
        std::fs::write(run.join("lock"), bytes).unwrap();
        standing(&run).is_ok_and(|standing| standing == Standing::Free)
    };
    println!("lock: {} read", survives("lock", EACH, b"4711 a-host dsr 1764460000\n", is_free, text_bound));
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

/// Reads damaged copies of a recording: many of few events, and some of many.
fn recordings(what: &str, file: impl Fn(usize) -> Vec<u8>) {
    let read = |bytes: &[u8]| recording(Path::new("x"), bytes).is_ok();
    for (n, events) in [(EACH, 12), (10_000, 40)] {
        println!("{what}: {} of {n} read", survives(what, n, &file(events), read, recording_bound));
    }
}

fn packets(n: usize, pack: fn(&[u8]) -> Vec<u8>) -> [Vec<u8>; 3] {
    [pack(&packet(b"IMUS", 5)), pack(&packet(b"EVTS", n)), pack(&packet(b"EVTS", 3))]
}

#[test]
fn damaged_recordings_of_aedat_2_harm_nobody() {
    recordings("AEDAT 2.0", |n| aedat2(&events(n + 20, 1)));
}

#[test]
fn damaged_recordings_of_aedat_4_harm_nobody() {
    recordings("AEDAT 4.0", |n| aedat4(0, &packets(n, <[u8]>::to_vec)));
}

#[test]
fn damaged_recordings_in_lz4_harm_nobody() {
    recordings("AEDAT 4.0, LZ4", |n| aedat4(1, &packets(n, lz4)));
}

#[test]
fn damaged_recordings_in_zstd_harm_nobody() {
    recordings("AEDAT 4.0, ZSTD", |n| aedat4(3, &packets(n, zstd)));
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
