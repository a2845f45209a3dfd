//! Arrays on the device by shape and steps: the values of a plain loop, in bits.

#[path = "support/device.rs"]
mod device;
#[path = "support/output.rs"]
mod output;
#[path = "support/seeded.rs"]
mod seeded;

use dsr::data::{DataCard, Pixels};
use dsr::ops::augment::{Strided, reach, strided_bytes, strided_not_finite, strided_values};
use output::Output;

/// Places of all elements, the last axis fastest.
fn places(first: usize, shape: [usize; 5], steps: [i64; 5]) -> Vec<usize> {
    let mut places = vec![first as i64];
    for (len, step) in shape.into_iter().zip(steps) {
        places = places.iter().flat_map(|place| (0..len as i64).map(move |index| place + index * step)).collect();
    }
    places.into_iter().map(|place| place as usize).collect()
}

/// Shapes and steps: dense; channels first; every second row; backwards; one image for all; one value; around a block of 256.
fn cases() -> Vec<([usize; 5], [i64; 5])> {
    vec![
        ([1, 1, 1, 1, 1], [0, 0, 0, 0, 0]),
        ([3, 1, 4, 5, 3], [60, 60, 15, 3, 1]),
        ([3, 1, 4, 5, 3], [60, 60, 5, 1, 20]),
        ([2, 4, 3, 3, 2], [72, 18, 3, 1, 9]),
        ([2, 4, 3, 3, 2], [9, 36, 3, 1, 18]),
        ([3, 1, 2, 5, 2], [40, 0, 20, 2, 1]),
        ([2, 2, 3, 4, 3], [-72, 36, -12, 3, -1]),
        ([4, 3, 2, 2, 5], [0, 0, 10, 5, 1]),
        ([1, 1, 1, 255, 1], [7, 7, 7, 1, 7]),
        ([1, 1, 1, 1, 256], [7, 7, 7, 7, -1]),
        ([257, 1, 1, 1, 1], [2, 7, 7, 7, 7]),
        ([2, 1, 8, 8, 33], [2112, 0, 8, 1, 64]),
    ]
}

/// Memory that an array needs, and the place of its first element there.
fn extent(shape: [usize; 5], steps: [i64; 5]) -> (usize, usize) {
    let [lowest, highest] = reach(&shape, &steps).unwrap();
    ((highest - lowest + 1) as usize, -lowest as usize)
}

#[test]
fn values_and_bytes_are_those_of_a_plain_loop() {
    let gpu = device::gpu();
    for (number, (shape, steps)) in cases().into_iter().enumerate() {
        let (len, first) = extent(shape, steps);
        let host = seeded::values(number as u64, len, -2.0..2.0);
        let of_host: Vec<f32> = places(first, shape, steps).into_iter().map(|place| host[place]).collect();
        let memory = gpu.memory_of(&host).unwrap();
        let array = Strided::new(memory.slice(), first, shape, steps).unwrap();
        for factor in [1.0, 0.3] {
            let out = Output::of(&gpu, &vec![f32::NAN; of_host.len()]);
            strided_values(&gpu, out.slice(), &array, factor).unwrap();
            let expected: Vec<f32> = of_host.iter().map(|value| factor * value).collect();
            assert_eq!(out.values(), expected, "{shape:?}, {steps:?}, times {factor}");
        }
        if shape[0] > 1 {
            let part = array.part(1..shape[0]);
            let out = Output::of(&gpu, &vec![f32::NAN; part.len()]);
            strided_values(&gpu, out.slice(), &part, 1.0).unwrap();
            assert_eq!(out.values(), of_host[of_host.len() / shape[0]..], "{shape:?}, {steps:?}, without the first sample");
        }

        let channels = shape[4];
        let mean: Vec<f32> = (0..channels).map(|c| 0.1 + c as f32 / 50.0).collect();
        let card =
            DataCard { shape: [shape[2], shape[3], channels], std: mean.iter().map(|m| m + 0.2).collect(), mean, max_value: 200, ..card() };
        let pixels = Pixels::of_card(&card);
        let bytes: Vec<u8> = (0..len).map(|i| (i * 37 + 11) as u8).collect();
        let of_bytes: Vec<u8> = places(first, shape, steps).into_iter().map(|place| bytes[place]).collect();
        let (mut expected, memory, table) = (Vec::new(), gpu.memory_of(&bytes).unwrap(), gpu.memory_of(&pixels.table()).unwrap());
        pixels.append(&of_bytes, &mut expected);
        let out = Output::of(&gpu, &vec![f32::NAN; expected.len()]);
        strided_bytes(&gpu, out.slice(), &Strided::new(memory.slice(), first, shape, steps).unwrap(), table.slice()).unwrap();
        assert_eq!(out.values(), expected, "{shape:?}, {steps:?}, bytes");
    }
}

fn card() -> DataCard {
    DataCard {
        name: "random".into(),
        classes: vec!["all".into()],
        shape: [1, 1, 1],
        frames: 1,
        mean: vec![0.0],
        std: vec![1.0],
        max_value: 255,
    }
}

#[test]
fn the_first_value_that_is_not_finite_is_found_in_the_order_of_the_axes() {
    let gpu = device::gpu();
    for (shape, steps) in cases() {
        let (len, first) = extent(shape, steps);
        let places = places(first, shape, steps);
        let mut host = vec![f32::MAX; len];
        let of = |host: &[f32]| {
            let memory = gpu.memory_of(host).unwrap();
            strided_not_finite(&gpu, &Strided::new(memory.slice(), first, shape, steps).unwrap()).unwrap()
        };
        assert_eq!(of(&host), None, "{shape:?}, {steps:?}");
        // What no element of the array is may be anything.
        (0..len).filter(|place| !places.contains(place)).for_each(|place| host[place] = f32::NAN);
        assert_eq!(of(&host), None, "{shape:?}, {steps:?}");
        for (number, bad) in [(places.len() - 1, f32::NEG_INFINITY), (places.len() / 2, f32::INFINITY), (0, f32::NAN)] {
            host[places[number]] = bad;
            let number = places.iter().position(|place| *place == places[number]).unwrap(); // several indices may be of one element
            let (found, value) = of(&host).unwrap();
            assert_eq!((found, value.to_bits()), (number, bad.to_bits()), "{shape:?}, {steps:?}");
        }
    }
}

#[test]
fn arrays_that_do_not_lie_in_their_memory_are_refused() {
    let gpu = device::gpu();
    let memory = gpu.zeroed::<f32>(24).unwrap();
    let new = |first, shape, steps| Strided::new(memory.slice(), first, shape, steps);
    assert!(new(0, [2, 1, 2, 3, 2], [12, 12, 6, 2, 1]).is_ok());
    assert!(new(23, [2, 1, 2, 3, 2], [-12, 12, -6, -2, -1]).is_ok());
    for (first, shape, steps) in [
        (1, [2, 1, 2, 3, 2], [12, 12, 6, 2, 1]),
        (22, [2, 1, 2, 3, 2], [-12, 12, -6, -2, -1]),
        (24, [1; 5], [0; 5]),
        (usize::MAX, [1; 5], [0; 5]),
        (0, [0, 1, 2, 3, 2], [12, 12, 6, 2, 1]),
        (0, [2, 1, 1, 1, 1], [i64::MAX, 0, 0, 0, 0]),
        (0, [2, 1, 1, 1, 1], [i64::MIN, 0, 0, 0, 0]),
        (0, [3, 1, 1, 1, 1], [i64::MAX, 0, 0, 0, 0]),
        (0, [2, 2, 1, 1, 1], [i64::MAX, i64::MAX, 0, 0, 0]),
        (0, [usize::MAX, 1, 1, 1, 1], [0; 5]),
        (0, [1 << 16, 1 << 15, 1, 1, 1], [0; 5]),
        (0, [1 << 62, 4, 1, 1, 1], [0; 5]),
    ] {
        assert!(new(first, shape, steps).is_err(), "{first}, {shape:?}, {steps:?}");
    }
    let array = new(0, [2, 1, 2, 3, 2], [12, 12, 6, 2, 1]).unwrap();
    let out = gpu.zeroed::<f32>(23).unwrap();
    let problem = strided_values(&gpu, out.slice(), &array, 1.0).unwrap_err();
    assert_eq!(problem.to_string(), "a strided array: output: expected 24, got 23");
    let (bytes, table) = (gpu.zeroed::<u8>(24).unwrap(), gpu.zeroed::<f32>(511).unwrap());
    let (bytes, out) = (Strided::new(bytes.slice(), 0, [2, 1, 2, 3, 2], [12, 12, 6, 2, 1]).unwrap(), gpu.zeroed::<f32>(24).unwrap());
    let problem = strided_bytes(&gpu, out.slice(), &bytes, table.slice()).unwrap_err();
    assert_eq!(problem.to_string(), "a strided array: table: expected 512, got 511");
}

/// Two elements more than 2^31 bytes apart.
#[test]
fn an_element_past_two_gigabytes_is_found() {
    let gpu = device::gpu();
    let far = (1usize << 31) + 5;
    let [free, _] = gpu.memory().unwrap();
    if free < far + (1 << 20) {
        println!("skipped: {free} bytes are free");
        return;
    }
    let bytes = gpu.zeroed::<u8>(far + 1).unwrap();
    gpu.upload(&[7], bytes.slice().part(far..far + 1)).unwrap();
    let table: Vec<f32> = (0..256).map(|byte| byte as f32).collect();
    let table = gpu.memory_of(&table).unwrap();
    for (first, step, expected) in [(0, far as i64, [0.0, 7.0]), (far, -(far as i64), [7.0, 0.0])] {
        let out = Output::of(&gpu, &[f32::NAN; 2]);
        let array = Strided::new(bytes.slice(), first, [2, 1, 1, 1, 1], [step, 0, 0, 0, 0]).unwrap();
        strided_bytes(&gpu, out.slice(), &array, table.slice()).unwrap();
        assert_eq!(out.values(), expected);
    }
}
