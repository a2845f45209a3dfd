//! Every reader on 100,000 damaged files: no panic, and no more memory than docs/data.md says, as an allocator counts it. A test for each
//! format, so that they run side by side; files are small, so that each takes microseconds.

use std::io::{Cursor, Write};
use std::path::Path;

use dsr::data::aedat::parse as recording;
use dsr::data::picture::{allowed_pixels, check_bytes, parse as picture};
use dsr::data::{cifar, idx, load};
use flate2::Compression;
use flate2::write::GzEncoder;
use jpeg_encoder::{ColorType, Encoder, SamplingFactor};

#[path = "support/damage.rs"]
mod damage;
#[path = "support/streamed_sets.rs"]
mod streamed_sets;
use damage::{EACH, on_disk, peak, scratch, survives};
use streamed_sets::{aedat2, events, jpeg};

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
