//! What surrounds a network in training: augmentation, strided arrays, dropout masks, loss, the search for bad values, updates.

use std::sync::Arc;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::inputs::floats;
use super::{Check, Outcome, Output, Size};
use crate::data::{Augment, Dataset, Images, Pixels, Split};
use crate::device::{Gpu, Slice};
use crate::error::{Error, Result};
use crate::ops::augment::{DeviceDraw, Pictures, Strided, augment, reach, strided_bytes, strided_not_finite, strided_values};
use crate::ops::cross_entropy::cuda::{self as cross_entropy, DeviceTargets, Outputs};
use crate::ops::cross_entropy::{Blend, Targets, cross_entropy_of, first_largest};
use crate::ops::dropout::{draw, draw_dropped};
use crate::ops::optimizer::cuda::{self as update, Arenas, StepParameters, StepResult, clip_len};
use crate::ops::optimizer::{Average, Optimizer, Rule};

const SGD: Rule = Rule::Sgd { momentum: 0.9, nesterov: false };
const NESTEROV: Rule = Rule::Sgd { momentum: 0.9, nesterov: true };
const ADAM: Rule = Rule::Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8 };
const ADAMW: Rule = Rule::AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8 };

pub fn checks(gpu: &Arc<Gpu>, size: Size) -> Vec<Check> {
    let is_full = size == Size::Full;
    let mut checks = Vec::new();
    for (shape, crop_pad, flip) in [([1, 1, 1], 0, false), ([5, 7, 3], 2, true), ([8, 8, 1], 4, false), ([9, 6, 4], 5, true)] {
        let (gpu, [height, width, channels]) = (gpu.clone(), shape);
        let text = format!("{height}x{width}x{channels}, crop {crop_pad}{}", if flip { ", flip, holes" } else { "" });
        let how = Augment { crop_pad, flip, cutout: if flip { 3 } else { 0 }, ..Augment::default() };
        checks.push(Check::bits("augmentation", text, move |rng, outcome| check_augment(&gpu, rng, outcome, shape, how)));
    }
    // Channels last, channels first, and every second column backwards.
    for (shape, steps) in
        [([2, 1, 5, 7, 3], [105, 105, 21, 3, 1]), ([2, 4, 3, 3, 33], [1188, 297, 3, 1, 9]), ([3, 1, 4, 5, 2], [80, 0, 20, -4, 1])]
    {
        let (gpu, [batch, frames, height, width, channels]) = (gpu.clone(), shape);
        let text = format!("B{batch}, {frames} of {height}x{width}x{channels} by steps of {steps:?}");
        checks.push(Check::bits("strided array", text, move |rng, outcome| check_strided(&gpu, rng, outcome, shape, steps)));
    }
    for (shape, share) in [([1, 1, 1], 0.5), ([3, 7, 31], 0.1), ([2, 5, 33], 0.999), ([1, 2, 130], 0.25)] {
        let (gpu, [batch, positions, channels]) = (gpu.clone(), shape);
        let text = format!("B{batch} {positions}x{channels}, a share of {share}");
        checks.push(Check::bits("dropout mask", text, move |rng, outcome| {
            let (seed, index, first) = (rng.random(), rng.random_range(0..100_000), rng.random_range(0..1000));
            let mut expected = Vec::new();
            draw_dropped(&mut expected, seed, index, first, shape, share);
            let parameters = gpu.memory_of(&[StepParameters::new(None, 0.0, seed)])?;
            let dropped = Output::unwritten(&gpu, expected.len())?;
            draw(&gpu, dropped.slice(), parameters.slice(), index, first, shape, share)?;
            dropped.expect("mask [B][P][words]", outcome, &expected)
        }));
    }
    let of_share = gpu.clone();
    checks.push(Check::bits("dropout mask", "a draw that is exactly the share", move |rng, outcome| {
        let (seed, mut expected) = (rng.random(), Vec::new());
        let share = ChaCha8Rng::seed_from_u64(seed).random::<f32>(); // that of the first neuron of the first layer and sample
        draw_dropped(&mut expected, seed, 0, 0, [1, 1, 33], share);
        let parameters = of_share.memory_of(&[StepParameters::new(None, 0.0, seed)])?;
        let dropped = Output::unwritten(&of_share, expected.len())?;
        draw(&of_share, dropped.slice(), parameters.slice(), 0, 0, [1, 1, 33], share)?;
        dropped.expect("mask [B][P][words]", outcome, &expected)
    }));
    for (classes, batch, range) in [(1, 1, 1.0f32), (2, 5, 1.0), (10, 257, 20.0), (33, 7, 100.0), (1000, 3, 5.0), (40, 600, 5.0)] {
        let gpu = gpu.clone();
        let smoothing = if batch == 7 { 0.1 } else { 0.0 };
        let text = format!("{classes} classes, B{batch}{}", if smoothing > 0.0 { ", smoothed and mixed" } else { "" });
        checks.push(Check::within("2^-23 of the value", "cross-entropy", text, move |rng, outcome| {
            check_loss(&gpu, rng, outcome, [classes, batch], range, smoothing)
        }));
    }
    for (rule, name, aids) in [
        (SGD, "SGD", false),
        (NESTEROV, "SGD, Nesterov", false),
        (ADAM, "Adam", false),
        (SGD, "SGD, clipped, averaged", true),
        (ADAMW, "AdamW, clipped, averaged", true),
    ] {
        // 524,288 are what the blocks of one pass take.
        for len in [1, 1025, 5000, 524_293].into_iter().chain(is_full.then_some(11_000_001)) {
            let gpu = gpu.clone();
            let text = format!("{name}, {len} parameters, 3 recorded steps");
            checks.push(Check::bits("update", text, move |rng, outcome| check_update(&gpu, rng, outcome, rule, aids, len)));
        }
    }
    let [of_bad, of_thresholds] = [gpu.clone(), gpu.clone()];
    checks.push(Check::bits("no update by bad values", "3000 parameters", move |rng, outcome| check_bad(&of_bad, rng, outcome)));
    let of_many = gpu.clone();
    checks.push(Check::bits("no update by bad values", "the last of 524,293 parameters", move |rng, outcome| {
        const LEN: usize = 524_293;
        let mut grad = floats(rng, LEN, -1.0..1.0);
        grad[LEN - 1] = f32::NAN;
        let (values, grads) = (of_many.memory_of(&floats(rng, LEN, -1.0..1.0))?, of_many.memory_of(&grad)?);
        let result = Output::of(&of_many, &[StepResult::default()])?;
        update::first_not_finite(&of_many, result.slice(), values.slice(), grads.slice(), Slice::NONE)?;
        let reported = result.values("the result", outcome)?[0].first_not_finite();
        outcome.bits("place of the bad gradient", &[reported.map_or(-1, |at| at as i64)], &[LEN as i64 - 1]);
        Ok(())
    }));
    checks.push(Check::bits("bound of thresholds", "70 thresholds of 100 values", move |rng, outcome| {
        let (bound, host) = (0.1f32, floats(rng, 100, -0.3..0.5));
        let places: Vec<u32> = (15..85).collect();
        let mut expected = host.clone();
        places.iter().for_each(|&at| expected[at as usize] = (host[at as usize] - bound).max(0.0) + bound);
        let (values, places) = (Output::of(&of_thresholds, &host)?, of_thresholds.memory_of(&places)?);
        update::bound_thresholds(&of_thresholds, values.slice(), places.slice(), bound)?;
        values.expect("values", outcome, &expected)
    }));
    checks
}

/// A batch that is cropped, mirrored and normalised, and one that is only normalised.
fn check_augment(gpu: &Arc<Gpu>, rng: &mut ChaCha8Rng, outcome: &mut Outcome, shape: [usize; 3], how: Augment) -> Result<()> {
    const IMAGES: usize = 6;
    let size: usize = shape.iter().product();
    // Each channel is brighter than the one before.
    let pixels = floats(rng, IMAGES * size, 0.0..1.0).into_iter().enumerate().map(|(i, v)| (v * (80 + 40 * (i % shape[2])) as f32) as u8);
    let split = Split { images: Images { shape, pixels: pixels.collect() }, labels: vec![0; IMAGES] };
    let dataset = Dataset::new("random", vec!["all".into()], split.clone(), split, 255)?;
    let (pixels, images) = (Pixels::of(&dataset), &dataset.train.images);
    let (mut expected, mut draws, mut holes) = (Vec::new(), Vec::new(), Vec::new());
    for place in 0..9 {
        let (image, draw) = (rng.random_range(0..IMAGES), how.draw(9, 1, place));
        pixels.append_drawn(images.image(image), how.crop_pad, draw, &mut expected);
        draws.push(DeviceDraw::new(image, draw));
        if let Some(hole) = how.hole(shape, 9, 1, place) {
            let start = expected.len() - size;
            hole.clear(&mut expected[start..], shape);
            holes.push(hole);
        }
    }
    let (bytes, table, draws) = (gpu.memory_of(&images.pixels)?, gpu.memory_of(&pixels.table())?, gpu.memory_of(&draws)?);
    let holes = gpu.memory_of(&holes)?;
    let holes = if how.cutout > 0 { holes.slice() } else { Slice::NONE };
    let out = Output::unwritten(gpu, expected.len())?;
    let pictures = Pictures { images: bytes.slice(), draws: draws.slice(), holes, table: table.slice() };
    augment(gpu, out.slice(), &pictures, shape, draws.slice().len(), how.crop_pad)?;
    out.expect("input [B][H][W][C]", outcome, &expected)?;
    let mut plain = Vec::new();
    (0..4).for_each(|image| pixels.append(images.image(image), &mut plain));
    let out = Output::unwritten(gpu, plain.len())?;
    let pictures = Pictures { draws: Slice::NONE, holes: Slice::NONE, ..pictures };
    augment(gpu, out.slice(), &pictures, shape, 4, 0)?;
    out.expect("images as they are [B][H][W][C]", outcome, &plain)
}

/// Values and bytes of an array of any steps, and the first of its values that is not finite.
fn check_strided(gpu: &Arc<Gpu>, rng: &mut ChaCha8Rng, outcome: &mut Outcome, shape: [usize; 5], steps: [i64; 5]) -> Result<()> {
    let none = || Error::shape("a strided array", "some elements", 0);
    let [lowest, highest] = reach(&shape, &steps).ok_or_else(none)?;
    let (first, len) = (-lowest as usize, (highest - lowest + 1) as usize);
    let mut places = vec![first as i64];
    for (len, step) in shape.into_iter().zip(steps) {
        places = places.iter().flat_map(|place| (0..len as i64).map(move |index| place + index * step)).collect();
    }
    let (mut values, factor) = (floats(rng, len, -2.0..2.0), rng.random_range(0.1..3.0f32));
    let expected: Vec<f32> = places.iter().map(|&place| factor * values[place as usize]).collect();
    let memory = gpu.memory_of(&values)?;
    let out = Output::unwritten(gpu, expected.len())?;
    strided_values(gpu, out.slice(), &Strided::new(memory.slice(), first, shape, steps)?, factor)?;
    out.expect("values", outcome, &expected)?;

    let bytes: Vec<u8> = values.iter().map(|value| (value * 60.0) as i8 as u8).collect();
    let table = floats(rng, shape[4] * 256, -2.0..2.0);
    let looked_up = |(number, &place): (usize, &i64)| table[number % shape[4] * 256 + usize::from(bytes[place as usize])];
    let expected: Vec<f32> = places.iter().enumerate().map(looked_up).collect();
    let (memory, device_table) = (gpu.memory_of(&bytes)?, gpu.memory_of(&table)?);
    let out = Output::unwritten(gpu, expected.len())?;
    strided_bytes(gpu, out.slice(), &Strided::new(memory.slice(), first, shape, steps)?, device_table.slice())?;
    out.expect("bytes", outcome, &expected)?;

    // Of two that are not finite the first; between the elements, where the array has gaps, anything may be.
    values.fill(f32::NAN);
    places.iter().for_each(|&place| values[place as usize] = 1.0);
    values[places[places.len() / 3] as usize] = f32::INFINITY;
    values[places[places.len() - 1] as usize] = f32::NAN;
    let memory = gpu.memory_of(&values)?;
    let found = strided_not_finite(gpu, &Strided::new(memory.slice(), first, shape, steps)?)?;
    outcome.bits("the first that is not finite", &[found.map_or(-1, |(number, _)| number as i64)], &[places.len() as i64 / 3]);
    Ok(())
}

/// Only exp, log and the order of a sample's sum may differ.
fn check_loss(
    gpu: &Arc<Gpu>,
    rng: &mut ChaCha8Rng,
    outcome: &mut Outcome,
    [classes, batch]: [usize; 2],
    range: f32,
    smoothing: f64,
) -> Result<()> {
    const FACTOR: f32 = 0.3;
    let logits = floats(rng, classes * batch, -range..range);
    // Halves meet each other often.
    let logits: Vec<f32> = if classes == 33 { logits.iter().map(|v| (v / 20.0).round() / 2.0).collect() } else { logits };
    let labels: Vec<u32> = (0..batch).map(|_| rng.random_range(0..classes as u32)).collect();
    let mut blends: Vec<Blend> = Vec::new();
    if batch == 7 {
        blends.extend((0..batch).map(|_| Blend { other: rng.random_range(0..classes as u32), share: rng.random() }));
    }
    let mut grad = vec![0.0; logits.len()];
    let loss = cross_entropy_of(&logits, &Targets { labels: &labels, blends: &blends, smoothing }, classes, &mut grad);
    let correct = logits.chunks_exact(classes).zip(&labels).filter(|(row, label)| first_largest(row) == **label as usize).count();
    let (got, losses) = (Output::<f32>::unwritten(gpu, logits.len())?, Output::<f64>::unwritten(gpu, batch)?);
    let result = Output::of(gpu, &[StepResult::default()])?;
    let (on_device, on_labels) = (gpu.memory_of(&logits)?, gpu.memory_of(&labels)?);
    let on_blends = gpu.memory_of(&blends)?;
    let out = Outputs { grad: got.slice(), losses: losses.slice(), result: result.slice() };
    let targets = DeviceTargets { labels: on_labels.slice(), blends: if batch == 7 { on_blends.slice() } else { Slice::NONE }, smoothing };
    cross_entropy::cross_entropy(gpu, &out, on_device.slice(), &targets, [batch, classes], FACTOR)?;
    losses.values("losses", outcome)?;
    let reported = result.values("the result", outcome)?[0];
    outcome.bits("number of correct samples", &[reported.correct], &[correct as u32]);
    outcome.near("mean loss", &[reported.loss], &[loss], |_| 1e-13 * loss.abs().max(1.0));
    let expected: Vec<f64> = grad.iter().map(|g| f64::from(g * FACTOR)).collect();
    // A share of f64 keeps 15 digits, but its difference to 1 may cancel most of them.
    let allowed = |at: usize| expected[at].abs() * f64::from(f32::EPSILON) + 1e-15;
    let got = got.values("gradient", outcome)?;
    outcome.near("gradient [B][classes]", &got, &expected, allowed);
    Ok(())
}

/// A recorded update that is replayed with other gradients and rates. With `aids` the norm of the gradients is bounded, some parameters
/// are spared from weight decay, and an average is kept.
fn check_update(gpu: &Arc<Gpu>, rng: &mut ChaCha8Rng, outcome: &mut Outcome, rule: Rule, aids: bool, len: usize) -> Result<()> {
    let decay = 5e-4;
    let mut host = floats(rng, len, -1.0..1.0);
    let mut optimizer = Optimizer::new(rule, decay, len);
    if aids {
        optimizer.clip_norm = Some(0.01); // some of the norms below are beyond it, some within
        optimizer.average = Some(Average { decay: 0.7, ..Average::default() });
        optimizer.spared = (0..len.div_ceil(32)).map(|_| rng.random()).collect();
    }
    let (values, grads) = (Output::of(gpu, &host)?, gpu.zeroed::<f32>(len)?);
    let (average, partial) = (Output::of(gpu, &vec![0.0f32; len])?, gpu.zeroed::<f64>(clip_len(len))?);
    let spared = if aids { Some(gpu.memory_of(&optimizer.spared)?) } else { None };
    let (first, second) = (Output::of(gpu, &optimizer.first)?, Output::of(gpu, &optimizer.second)?);
    let (parameters, result) = (gpu.zeroed::<StepParameters>(1)?, Output::of(gpu, &[StepResult::default()])?);
    let arenas = Arenas {
        values: values.slice(),
        grads: grads.slice(),
        first: first.slice(),
        second: second.slice(),
        spared: spared.as_ref().map_or(Slice::NONE, |spared| spared.slice()),
    };
    let clip_norm = optimizer.clip_norm;
    let step = gpu.capture(|| {
        gpu.fill_zero(result.slice())?;
        update::first_not_finite(gpu, result.slice(), values.slice(), grads.slice(), Slice::NONE)?;
        if let Some(most) = clip_norm {
            update::clip(gpu, parameters.slice(), grads.slice(), partial.slice(), most)?;
        }
        update::step(gpu, rule, decay, &arenas, parameters.slice(), result.slice())?;
        if aids { update::average(gpu, average.slice(), values.slice(), parameters.slice(), result.slice()) } else { Ok(()) }
    })?;
    for at in 0..3u8 {
        let (size, lr) = (10f32.powi(i32::from(at) - 3), 0.1 / f32::from(at + 1));
        let grad = floats(rng, len, -size..size);
        gpu.upload(&grad, grads.slice())?;
        gpu.upload(&[StepParameters::new(Some(&optimizer), lr, 0)], parameters.slice())?;
        step.launch()?;
        optimizer.step(lr, &mut host, &grad);
        optimizer.average(&host, &[]);
        result.expect(&format!("report of step {at}"), outcome, &[StepResult::default()])?;
        values.expect(&format!("values after step {at}"), outcome, &host)?;
        first.expect(&format!("first moments after step {at}"), outcome, &optimizer.first)?;
        second.expect(&format!("second moments after step {at}"), outcome, &optimizer.second)?;
        if aids {
            average.expect(&format!("averages after step {at}"), outcome, optimizer.arenas()[2])?;
        }
    }
    Ok(())
}

/// The first bad value or gradient is reported, and nothing changes.
fn check_bad(gpu: &Arc<Gpu>, rng: &mut ChaCha8Rng, outcome: &mut Outcome) -> Result<()> {
    const LEN: usize = 3000;
    const STATISTICS: usize = 70;
    // Places of bad values, of bad gradients and of bad running statistics, the loss, and the first bad place.
    let cases: [(&[usize], &[usize], &[usize], f64, Option<usize>); 6] = [
        (&[], &[0], &[0], 1.0, Some(0)),
        (&[1500, 700], &[701, 2000], &[], 1.0, Some(700)),
        (&[2999], &[1024, 1023], &[], 1.0, Some(1023)),
        (&[], &[], &[69], 1.0, Some(LEN + 69)),
        (&[], &[], &[5, 0], 1.0, Some(LEN)),
        (&[], &[], &[], f64::NAN, None),
    ];
    for (rule, (bad_values, bad_grads, bad_statistics, loss, first_bad)) in
        [SGD, ADAM].into_iter().flat_map(|rule| cases.map(|case| (rule, case)))
    {
        let (mut host, mut grad) = (floats(rng, LEN, -1.0..1.0), floats(rng, LEN, -1.0..1.0));
        bad_values.iter().for_each(|&at| host[at] = f32::INFINITY);
        bad_grads.iter().for_each(|&at| grad[at] = f32::NAN);
        let mut running = floats(rng, STATISTICS, -1.0..1.0);
        bad_statistics.iter().for_each(|&at| running[at] = f32::NEG_INFINITY);
        let running = gpu.memory_of(&running)?;
        let state = vec![0.5f32; LEN];
        let (values, grads) = (Output::of(gpu, &host)?, Output::of(gpu, &grad)?);
        let (first, second) = (Output::of(gpu, &state)?, Output::of(gpu, &state)?);
        let parameters = gpu.memory_of(&[StepParameters::new(None, 0.1, 0)])?;
        let mut before = StepResult::default();
        before.loss = loss;
        let result = Output::of(gpu, &[before])?;
        update::first_not_finite(gpu, result.slice(), values.slice(), grads.slice(), running.slice())?;
        let (values_at, grads_at) = (values.slice(), grads.slice());
        let arenas = Arenas { values: values_at, grads: grads_at, first: first.slice(), second: second.slice(), spared: Slice::NONE };
        update::step(gpu, rule, 0.0, &arenas, parameters.slice(), result.slice())?;
        let reported = result.values("the result", outcome)?[0].first_not_finite();
        let place = |place: Option<usize>| [place.map_or(-1, |at| at as i64)];
        outcome.bits("place of the first bad value, -1 for none", &place(reported), &place(first_bad));
        values.expect("values that must stay", outcome, &host)?;
        first.expect("first moments that must stay", outcome, &state)?;
        second.expect("second moments that must stay", outcome, &state)?;
    }
    Ok(())
}
