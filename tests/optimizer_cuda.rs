//! The optimiser on the device: the bits of the CPU, over many steps, with rates that change while a recorded step stays the same.

#[path = "support/device.rs"]
mod device;
#[path = "support/output.rs"]
mod output;
#[path = "support/seeded.rs"]
mod seeded;

use dsr::device::Slice;
use dsr::ops::optimizer::cuda::{self, Arenas, StepParameters, StepResult};
use dsr::ops::optimizer::{Average, Optimizer, Rule};
use output::Output;

const SGD: Rule = Rule::Sgd { momentum: 0.9, nesterov: false };
const ADAM: Rule = Rule::Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8 };

/// Places of bad values, of bad gradients and of bad running statistics, the loss, and the first bad place.
type Bad = (&'static [usize], &'static [usize], &'static [usize], f64, Option<usize>);

/// Lengths around vectors of four and around blocks.
const LENGTHS: [usize; 6] = [1, 3, 4, 1023, 1025, 5000];

#[test]
fn recorded_steps_have_the_bits_of_the_cpu() {
    let gpu = device::gpu();
    let rules = [SGD, Rule::Sgd { momentum: 0.0, nesterov: false }, Rule::Sgd { momentum: 0.9, nesterov: true }, ADAM];
    for (rule, len, decay) in rules.into_iter().flat_map(|rule| LENGTHS.map(|len| (rule, len, if len % 2 == 0 { 5e-4 } else { 0.0 }))) {
        let mut host = seeded::values(1, len, -1.0..1.0);
        let mut optimizer = Optimizer::new(rule, decay, len);
        let (values, grads) = (Output::of(&gpu, &host), Output::of(&gpu, &vec![0.0f32; len]));
        let (first, second) = (Output::of(&gpu, &optimizer.first), Output::of(&gpu, &optimizer.second));
        let parameters = Output::of(&gpu, &[StepParameters::default()]);
        let result = Output::of(&gpu, &[StepResult::default()]);
        let arenas =
            Arenas { values: values.slice(), grads: grads.slice(), first: first.slice(), second: second.slice(), spared: Slice::NONE };
        let step = gpu
            .capture(|| {
                gpu.fill_zero(result.slice())?;
                cuda::first_not_finite(&gpu, result.slice(), values.slice(), grads.slice(), Slice::NONE)?;
                cuda::step(&gpu, rule, decay, &arenas, parameters.slice(), result.slice())
            })
            .unwrap();
        for at in 0..5 {
            let grad: Vec<f32> = seeded::values(2 + at, len, -1.0..1.0).iter().map(|v| v * 10f32.powi(at as i32 - 3)).collect();
            let lr = 0.1 / (at + 1) as f32;
            gpu.upload(&grad, grads.slice()).unwrap();
            gpu.upload(&[StepParameters::new(Some(&optimizer), lr, at)], parameters.slice()).unwrap();
            step.launch().unwrap();
            optimizer.step(lr, &mut host, &grad);
            let what = format!("{rule:?}, {len} parameters, step {at}");
            assert_eq!(result.values()[0].first_not_finite(), None, "{what}");
            assert_eq!(values.values(), host, "{what}");
            assert_eq!(first.values(), optimizer.first, "{what}");
            assert_eq!(second.values(), optimizer.second, "{what}");
        }
    }
}

/// Some parameters are spared from decay, the norm of the gradients is bounded, and an average is kept, all in one recorded step.
#[test]
fn what_is_done_around_an_update_has_the_bits_of_the_cpu() {
    let gpu = device::gpu();
    let adamw = Rule::AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8 };
    for (rule, len) in [SGD, ADAM, adamw].into_iter().flat_map(|rule| [1, 33, 1023, 1024, 5000, 2048 * 256 + 5].map(|len| (rule, len))) {
        let mut host = seeded::values(1, len, -1.0..1.0);
        let mut optimizer = Optimizer::new(rule, 0.05, len);
        optimizer.spared = seeded::values(5, len.div_ceil(32), 0.0..1.0).iter().map(|v| v.to_bits().wrapping_mul(0x9E37_79B9)).collect();
        optimizer.clip_norm = Some(1.0);
        optimizer.average = Some(Average { decay: 0.2, ..Average::default() });
        let (values, grads) = (Output::of(&gpu, &host), Output::of(&gpu, &vec![0.0f32; len]));
        let (first, second) = (Output::of(&gpu, &optimizer.first), Output::of(&gpu, &optimizer.second));
        let average = Output::of(&gpu, &vec![0.0f32; len]);
        let partial = Output::of(&gpu, &vec![0.0f64; cuda::clip_len(len)]);
        let spared = gpu.memory_of(&optimizer.spared).unwrap();
        let parameters = Output::of(&gpu, &[StepParameters::default()]);
        let result = Output::of(&gpu, &[StepResult::default()]);
        let arenas =
            Arenas { values: values.slice(), grads: grads.slice(), first: first.slice(), second: second.slice(), spared: spared.slice() };
        let step = gpu
            .capture(|| {
                cuda::clip(&gpu, parameters.slice(), grads.slice(), partial.slice(), 1.0)?;
                cuda::step(&gpu, rule, 0.05, &arenas, parameters.slice(), result.slice())?;
                cuda::average(&gpu, average.slice(), values.slice(), parameters.slice(), result.slice())
            })
            .unwrap();
        for at in 0..4 {
            // Norms within the bound and beyond it.
            let grad: Vec<f32> = seeded::values(2 + at, len, -1.0..1.0).iter().map(|v| v * 10f32.powi(3 * at as i32 - 6)).collect();
            let lr = 0.1 / (at + 1) as f32;
            gpu.upload(&grad, grads.slice()).unwrap();
            gpu.upload(&[StepParameters::new(Some(&optimizer), lr, at)], parameters.slice()).unwrap();
            step.launch().unwrap();
            optimizer.step(lr, &mut host, &grad);
            optimizer.average(&host, &[]);
            let what = format!("{rule:?}, {len} parameters, step {at}");
            assert!(values.values() == host, "{what}: values");
            assert!(first.values() == optimizer.first && second.values() == optimizer.second, "{what}: moments");
            assert!(average.values() == optimizer.arenas()[2], "{what}: average");
        }
    }
}

#[test]
fn a_value_that_is_no_number_is_found_and_stops_the_update() {
    let gpu = device::gpu();
    const LEN: usize = 3000;
    const STATISTICS: usize = 70;
    let cases: [Bad; 9] = [
        (&[], &[0], &[0], 1.0, Some(0)),
        (&[2999], &[], &[], 1.0, Some(2999)),
        (&[1500, 700], &[701, 2000], &[1], 1.0, Some(700)),
        (&[], &[1024, 1023, 1025], &[], 1.0, Some(1023)),
        (&[], &[], &[0], 1.0, Some(LEN)),
        (&[], &[], &[69], 1.0, Some(LEN + 69)),
        (&[], &[], &[68, 7], 1.0, Some(LEN + 7)),
        (&[], &[], &[], f64::NAN, None),
        (&[], &[], &[], f64::INFINITY, None),
    ];
    for (rule, (bad_values, bad_grads, bad_statistics, loss, first_bad)) in
        [SGD, ADAM].into_iter().flat_map(|rule| cases.map(|case| (rule, case)))
    {
        let (mut host, mut grad) = (seeded::values(1, LEN, -1.0..1.0), seeded::values(2, LEN, -1.0..1.0));
        bad_values.iter().for_each(|&at| host[at] = f32::INFINITY);
        bad_grads.iter().for_each(|&at| grad[at] = f32::NAN);
        let mut running = seeded::values(3, STATISTICS, -1.0..1.0);
        bad_statistics.iter().for_each(|&at| running[at] = f32::NEG_INFINITY);
        let running = gpu.memory_of(&running).unwrap();
        let state = vec![0.5f32; LEN];
        let (values, grads) = (Output::of(&gpu, &host), Output::of(&gpu, &grad));
        let (first, second) = (Output::of(&gpu, &state), Output::of(&gpu, &state));
        let parameters = gpu.memory_of(&[StepParameters::new(None, 0.1, 0)]).unwrap();
        let mut before = StepResult::default();
        before.loss = loss;
        let result = Output::of(&gpu, &[before]);
        cuda::first_not_finite(&gpu, result.slice(), values.slice(), grads.slice(), running.slice()).unwrap();
        let arenas =
            Arenas { values: values.slice(), grads: grads.slice(), first: first.slice(), second: second.slice(), spared: Slice::NONE };
        cuda::step(&gpu, rule, 0.0, &arenas, parameters.slice(), result.slice()).unwrap();
        let average = Output::of(&gpu, &state);
        cuda::average(&gpu, average.slice(), values.slice(), parameters.slice(), result.slice()).unwrap();
        assert_eq!(average.values(), state, "{rule:?} {first_bad:?}");
        assert_eq!(result.values()[0].first_not_finite(), first_bad, "{bad_values:?} {bad_grads:?}");
        assert_eq!([values.values(), first.values(), second.values()], [host, state.clone(), state], "{rule:?} {first_bad:?} {loss}");
    }
}

#[test]
fn thresholds_stay_above_their_bound() {
    let gpu = device::gpu();
    let bound = 0.1f32;
    let host = [0.05f32, -3.0, 0.1, 0.3, f32::NAN, 7.0, 0.01];
    let places = [0u32, 1, 2, 3, 5];
    let mut expected = host;
    places.iter().for_each(|&at| expected[at as usize] = (host[at as usize] - bound).max(0.0) + bound);
    let (values, places) = (Output::of(&gpu, &host), gpu.memory_of(&places).unwrap());
    cuda::bound_thresholds(&gpu, values.slice(), places.slice(), bound).unwrap();
    let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<u32>>();
    assert_eq!(bits(&values.values()), bits(&expected));
}

/// More parameters than the blocks of one pass take: 2048 * 256.
#[test]
fn long_arenas_are_updated_to_their_end() {
    let gpu = device::gpu();
    let len = 2048 * 256 + 5;
    for rule in [SGD, ADAM] {
        let (mut host, grad) = (seeded::values(1, len, -1.0..1.0), seeded::values(2, len, -1.0..1.0));
        let mut optimizer = Optimizer::new(rule, 5e-4, len);
        let (values, grads) = (Output::of(&gpu, &host), Output::of(&gpu, &grad));
        let (first, second) = (Output::of(&gpu, &optimizer.first), Output::of(&gpu, &optimizer.second));
        let parameters = gpu.memory_of(&[StepParameters::new(Some(&optimizer), 0.1, 0)]).unwrap();
        let result = Output::of(&gpu, &[StepResult::default()]);
        let arenas =
            Arenas { values: values.slice(), grads: grads.slice(), first: first.slice(), second: second.slice(), spared: Slice::NONE };
        cuda::step(&gpu, rule, 5e-4, &arenas, parameters.slice(), result.slice()).unwrap();
        optimizer.step(0.1, &mut host, &grad);
        assert!(values.values() == host, "{rule:?}");
        gpu.upload(&[f32::NAN], grads.slice().part(len - 1..len)).unwrap();
        cuda::first_not_finite(&gpu, result.slice(), values.slice(), grads.slice(), Slice::NONE).unwrap();
        assert_eq!(result.values()[0].first_not_finite(), Some(len - 1), "{rule:?}");
    }
}
