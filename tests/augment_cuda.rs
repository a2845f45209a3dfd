//! Augmentation on the device: the bits of the CPU.

#[path = "support/device.rs"]
mod device;
#[path = "support/output.rs"]
mod output;
#[path = "support/seeded.rs"]
mod seeded;

use dsr::data::{Augment, Dataset, Draw, Hole, Images, Pixels, Split};
use dsr::device::Slice;
use dsr::ops::augment::{DeviceDraw, Pictures, augment};
use output::Output;

/// A few random images, each channel brighter than the one before.
fn dataset(shape: [usize; 3], images: usize) -> Dataset {
    let len = images * shape.iter().product::<usize>();
    let values = seeded::values(1, len, 0.0..1.0);
    let pixels = values.iter().enumerate().map(|(i, v)| (v * (80 + 40 * (i % shape[2])) as f32) as u8).collect();
    let split = Split { images: Images { shape, pixels }, labels: vec![0; images] };
    Dataset::new("random", vec!["all".into()], split.clone(), split, 255).unwrap()
}

#[test]
fn batches_have_the_bits_of_the_cpu() {
    let gpu = device::gpu();
    let cases = [
        ([1, 1, 1], 0, false, 0),
        ([1, 1, 1], 0, false, 1),
        ([5, 7, 3], 2, true, 3),
        ([8, 8, 1], 4, false, 4),
        ([4, 3, 2], 0, true, 0),
        ([9, 6, 4], 5, true, 1),
    ];
    for (shape, crop_pad, flip, cutout) in cases {
        let dataset = dataset(shape, 6);
        let pixels = Pixels::of(&dataset);
        let images = &dataset.train.images;
        let order = [3, 0, 0, 5, 1, 4, 2, 3, 3];
        let how = Augment { crop_pad, flip, cutout, ..Augment::default() };
        let (mut expected, mut draws, mut holes) = (Vec::new(), Vec::new(), Vec::new());
        for (place, &image) in order.iter().enumerate() {
            let draw = how.draw(9, 1, place as u64);
            pixels.append_drawn(images.image(image), crop_pad, draw, &mut expected);
            draws.push(DeviceDraw::new(image, draw));
            if let Some(hole) = how.hole(shape, 9, 1, place as u64) {
                let start = expected.len() - images.size();
                hole.clear(&mut expected[start..], shape);
                holes.push(hole);
            }
        }
        let (bytes, table) = (gpu.memory_of(&images.pixels).unwrap(), gpu.memory_of(&pixels.table()).unwrap());
        let (draws, is_cut) = (gpu.memory_of(&draws).unwrap(), cutout > 0);
        let holes = if is_cut { gpu.memory_of(&holes).unwrap() } else { gpu.zeroed(0).unwrap() };
        let holes = if is_cut { holes.slice() } else { Slice::NONE };
        let run = |draws: Slice<DeviceDraw>, holes: Slice<Hole>, batch: usize, pad: usize| {
            let out = Output::of(&gpu, &vec![f32::NAN; batch * images.size()]);
            let pictures = Pictures { images: bytes.slice(), draws, holes, table: table.slice() };
            augment(&gpu, out.slice(), &pictures, shape, batch, pad).unwrap();
            out.values()
        };
        assert_eq!(run(draws.slice(), holes, order.len(), crop_pad), expected, "{shape:?}, {how:?}");

        let mut plain = Vec::new();
        (0..4).for_each(|image| pixels.append(images.image(image), &mut plain));
        assert_eq!(run(Slice::NONE, Slice::NONE, 4, 0), plain, "{shape:?}, as they are");
    }
}

#[test]
fn buffers_that_are_too_small_are_refused() {
    let gpu = device::gpu();
    let (out, images, table) = (gpu.zeroed::<f32>(150).unwrap(), gpu.zeroed::<u8>(149).unwrap(), gpu.zeroed::<f32>(768).unwrap());
    let pictures = Pictures { images: images.slice(), draws: Slice::NONE, holes: Slice::NONE, table: table.slice() };
    let problem = augment(&gpu, out.slice(), &pictures, [5, 5, 3], 2, 0).unwrap_err();
    assert_eq!(problem.to_string(), "augment: images: expected 150, got 149");
    let one = gpu.zeroed::<Hole>(1).unwrap();
    let problem = augment(&gpu, out.slice(), &Pictures { holes: one.slice(), ..pictures }, [5, 5, 2], 2, 0).unwrap_err();
    assert_eq!(problem.to_string(), "augment: holes: expected 2, got 1");
}

/// Images that lie more than 2^31 bytes into a data set.
#[test]
fn an_image_past_two_gigabytes_is_found() {
    let gpu = device::gpu();
    let (shape, size) = ([8, 8, 1], 64);
    let images = (1usize << 31) / size + 1;
    let [free, _] = gpu.memory().unwrap();
    if free < images * size + (1 << 20) {
        println!("skipped: {free} bytes are free");
        return;
    }
    let bytes = gpu.zeroed::<u8>(images * size).unwrap();
    let last: Vec<u8> = (0..size as u8).map(|i| i + 1).collect();
    gpu.upload(&last, bytes.slice().part((images - 1) * size..images * size)).unwrap();
    let table: Vec<f32> = (0..256).map(|byte| byte as f32).collect();
    let table = gpu.memory_of(&table).unwrap();
    let draw = DeviceDraw::new(images - 1, Draw { top: 0, left: 0, flip: false });
    let draws = gpu.memory_of(&[draw]).unwrap();
    let out = Output::of(&gpu, &vec![f32::NAN; size]);
    let pictures = Pictures { images: bytes.slice(), draws: draws.slice(), holes: Slice::NONE, table: table.slice() };
    augment(&gpu, out.slice(), &pictures, shape, 1, 0).unwrap();
    assert_eq!(out.values(), last.iter().map(|byte| f32::from(*byte)).collect::<Vec<f32>>());
}
