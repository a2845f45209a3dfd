//! AutoAugment and its operations against torchvision on PIL images: `tests/fixtures/auto_augment.json.gz`, which
//! `benches/peers/golden_auto_augment.py` writes.

use std::io::Read;

use dsr::data::auto_augment::{AutoAugment, Choice, magnitude};
use dsr::data::operations::{Operation, apply};
use serde_json::Value;

const OPERATIONS: [Operation; 14] = [
    Operation::ShearX,
    Operation::ShearY,
    Operation::TranslateX,
    Operation::TranslateY,
    Operation::Rotate,
    Operation::Brightness,
    Operation::Color,
    Operation::Contrast,
    Operation::Sharpness,
    Operation::Posterize,
    Operation::Solarize,
    Operation::AutoContrast,
    Operation::Equalize,
    Operation::Invert,
];

fn golden() -> Value {
    let packed = std::fs::read("tests/fixtures/auto_augment.json.gz").unwrap();
    let mut text = String::new();
    flate2::read::GzDecoder::new(&packed[..]).read_to_string(&mut text).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn operation(name: &str) -> Operation {
    OPERATIONS.into_iter().find(|operation| format!("{operation:?}") == name).unwrap()
}

fn shape(value: &Value) -> [usize; 3] {
    let sizes: Vec<usize> = value.as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize).collect();
    sizes.try_into().unwrap()
}

/// The image of the script.
fn image([height, width, channels]: [usize; 3], is_flat: bool) -> Vec<u8> {
    let value = |y: usize, x: usize, c: usize| (x * x * 3 + y * y * 5 + x * y * (c + 1) * 7 + 31 * c) / 4 % 201 + 20;
    let places = (0..height).flat_map(|y| (0..width).flat_map(move |x| (0..channels).map(move |c| (y, x, c))));
    places.map(|(y, x, c)| if is_flat { 70 + c } else { value(y, x, c) } as u8).collect()
}

/// Whether a picture is that of the file, which has all bytes or their CRC-32.
fn is(picture: &[u8], expected: &Value) -> bool {
    let Some(hex) = expected.as_str() else {
        let mut crc = flate2::Crc::new();
        crc.update(picture);
        return expected.as_u64() == Some(u64::from(crc.sum()));
    };
    picture.iter().map(|byte| format!("{byte:02x}")).collect::<String>() == hex
}

#[test]
fn operations_have_the_bytes_of_torchvision() {
    let (golden, mut compared, mut wrong) = (golden(), 0, Vec::new());
    for case in golden["operations"].as_array().unwrap() {
        let (shape, is_flat) = (shape(&case["shape"]), case["flat"].as_bool().unwrap());
        for (name, results) in case["results"].as_object().unwrap() {
            for result in results.as_array().unwrap() {
                let (magnitude, mut picture) = (result[0].as_f64().unwrap(), image(shape, is_flat));
                apply(operation(name), magnitude, &mut picture, shape);
                compared += 1;
                if !is(&picture, &result[1]) {
                    wrong.push(format!("{name} {magnitude} of {shape:?}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {compared}: {wrong:#?}", wrong.len());
    assert_eq!(compared, 10 * (9 * 19 + 2 * 10 + 3));
}

#[test]
fn magnitudes_and_pairs_are_those_of_torchvision() {
    let golden = golden();
    for (side, of_side) in golden["magnitudes"].as_object().unwrap() {
        let side: usize = side.parse().unwrap();
        for (name, values) in of_side.as_object().unwrap() {
            let (operation, values) = (operation(name), values.as_array().unwrap());
            for (index, value) in values.iter().enumerate() {
                // The script's shape is side × 10.
                let (got, expected) = (magnitude(operation, index, [side, 10, 3]).0, value.as_f64().unwrap());
                assert_eq!(got, expected, "{name} {index}, {side} rows");
                if name == "TranslateY" {
                    assert_eq!(magnitude(Operation::TranslateX, index, [10, side, 3]).0, expected);
                }
            }
        }
    }
    for set in [AutoAugment::Cifar10, AutoAugment::Imagenet] {
        let expected = golden["policies"][set.name()].as_array().unwrap();
        let steps = |pair: &Value| {
            [0, 1]
                .map(|n| (operation(pair[n][0].as_str().unwrap()), pair[n][1].as_f64().unwrap(), pair[n][2].as_u64().unwrap_or(0) as usize))
        };
        assert_eq!(set.pairs().to_vec(), expected.iter().map(steps).collect::<Vec<_>>(), "{set:?}");
    }
    assert!(AutoAugment::Off.pairs().is_empty());
}

#[test]
fn pictures_have_the_bytes_of_torchvision() {
    let (golden, mut compared, mut changed) = (golden(), 0, 0);
    for set in [AutoAugment::Cifar10, AutoAugment::Imagenet] {
        for result in golden["pictures"][set.name()].as_array().unwrap() {
            let luck = [0, 1].map(|n| result[1][n].as_f64().unwrap());
            let is_positive = [0, 1].map(|n| result[2][n].as_u64().unwrap() == 1);
            let (choice, shape) = (Choice { pair: result[0].as_u64().unwrap() as usize, luck, is_positive }, shape(&result[3]));
            let mut picture = image(shape, false);
            set.change(&mut picture, shape, choice);
            assert!(is(&picture, &result[4]), "{set:?} {shape:?} {choice:?}");
            compared += 1;
            changed += usize::from(picture != image(shape, false));
        }
    }
    assert_eq!(compared, 2 * 25 * 4 * 2);
    assert!(changed > compared / 2, "{changed} of {compared}");
}

/// Of image, epoch and seed, all three; and over many images each pair, probability and sign comes as often as it should.
#[test]
fn choices_are_a_function_of_seed_epoch_and_image() {
    let shape = [9, 8, 1];
    let of = |seed, epoch, index| {
        let mut picture = image(shape, false);
        AutoAugment::Cifar10.augment(&mut picture, shape, seed, epoch, index);
        picture
    };
    let all = |seed, epoch| (0..50).map(|index| of(seed, epoch, index)).collect::<Vec<_>>();
    assert_eq!(all(1, 2), all(1, 2));
    assert!(all(1, 2) != all(1, 3) && all(1, 2) != all(2, 2));
    let distinct: std::collections::HashSet<Vec<u8>> = (0..500).map(|index| of(1, 1, index)).collect();
    assert!(distinct.len() > 40, "{}", distinct.len());
    let unchanged = (0..2000).filter(|&index| of(1, 1, index) == image(shape, false)).count();
    let nothing = |pair: &[dsr::data::auto_augment::Step; 2]| (1.0 - pair[0].1) * (1.0 - pair[1].1);
    let expected = AutoAugment::Cifar10.pairs().iter().map(nothing).sum::<f64>() / 25.0 * 2000.0;
    // Operations that change nothing (colour of grey pictures) come on top; five standard errors below.
    assert!(unchanged as f64 > expected - 5.0 * expected.sqrt(), "{unchanged}, at least {expected}");
    let mut picture = image(shape, false);
    AutoAugment::Off.augment(&mut picture, shape, 1, 1, 1);
    assert_eq!(picture, image(shape, false));
}
