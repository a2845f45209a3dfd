//! SGD, Adam and AdamW against their formulas in f64, step by step, and against PyTorch; averages; the schedule at its corners.

#[path = "support/seeded.rs"]
mod seeded;

use approx::assert_relative_eq;
use dsr::ops::optimizer::{Average, Optimizer, Rule, Schedule, Shape};

const STEPS: usize = 6;
/// More than one part of the parallel loop, and no multiple of it.
const LEN: usize = 20_001;

/// One parameter in f64: value and the two moments.
#[derive(Clone, Copy, Default)]
struct Expected {
    value: f64,
    first: f64,
    second: f64,
}

/// PyTorch's `SGD` (dampening 0), `Adam` (L2 decay) and `AdamW`, as documented there.
fn expected_step(rule: Rule, lr: f64, decay: f64, step: i32, grad: f64, state: &mut Expected) {
    let grad = match rule {
        Rule::AdamW { .. } => {
            state.value *= 1.0 - lr * decay;
            grad
        }
        _ => grad + decay * state.value,
    };
    match rule {
        Rule::Sgd { momentum, nesterov } => {
            let momentum = f64::from(momentum);
            state.first = momentum * state.first + grad;
            state.value -= lr * if nesterov { grad + momentum * state.first } else { state.first };
        }
        Rule::Adam { beta1, beta2, eps } | Rule::AdamW { beta1, beta2, eps } => {
            let [beta1, beta2, eps] = [beta1, beta2, eps].map(f64::from);
            state.first = beta1 * state.first + (1.0 - beta1) * grad;
            state.second = beta2 * state.second + (1.0 - beta2) * grad * grad;
            let (mean, square) = (state.first / (1.0 - beta1.powi(step)), state.second / (1.0 - beta2.powi(step)));
            state.value -= lr * mean / (square.sqrt() + eps);
        }
    }
}

#[test]
fn steps_follow_the_formulas() {
    let sgd = |momentum, nesterov| Rule::Sgd { momentum, nesterov };
    let adam = Rule::Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8 };
    let cases = [
        ("plain", sgd(0.0, false), 0.0),
        ("momentum", sgd(0.9, false), 0.0),
        ("nesterov", sgd(0.9, true), 0.0),
        ("momentum and decay", sgd(0.9, false), 5e-4),
        ("nesterov and decay", sgd(0.9, true), 0.1),
        ("adam", adam, 0.0),
        ("adam with decay", adam, 0.01),
        ("adamw", Rule::AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8 }, 0.1),
        ("adam with a large eps", Rule::Adam { beta1: 0.5, beta2: 0.9, eps: 0.1 }, 0.0),
    ];
    for (name, rule, decay) in cases {
        let mut values = seeded::values(1, LEN, -1.0..1.0);
        let start = values.clone();
        let mut expected: Vec<Expected> = values.iter().map(|&v| Expected { value: f64::from(v), ..Expected::default() }).collect();
        let mut optimizer = Optimizer::new(rule, decay, LEN);
        for step in 1..=STEPS {
            let lr = 0.1 / step as f32; // the rate changes from step to step, as in training
            let grads = seeded::values(10 + step as u64, LEN, -1.0..1.0);
            optimizer.step(lr, &mut values, &grads);
            for (state, grad) in expected.iter_mut().zip(&grads) {
                expected_step(rule, f64::from(lr), f64::from(decay), step as i32, f64::from(*grad), state);
            }
            assert_eq!(optimizer.steps, step as u64);
            for (i, (got, expected)) in values.iter().zip(&expected).enumerate() {
                let off = (f64::from(*got) - expected.value).abs();
                // f32 keeps 6e-8 of each of a few terms, all of magnitude 1 or less.
                assert!(off <= 2e-6, "{name}, step {step}, parameter {i}: {got}, expected {}", expected.value);
            }
        }
        assert!(values.iter().zip(&start).all(|(a, b)| a != b), "{name}: every parameter moves");
    }
}

/// The first two steps of Nesterov by hand: lr 0.5, momentum 0.5, decay 0.5, all exact in binary.
#[test]
fn two_steps_by_hand() {
    let mut optimizer = Optimizer::new(Rule::Sgd { momentum: 0.5, nesterov: true }, 0.5, 1);
    let mut value = [4.0];
    optimizer.step(0.5, &mut value, &[1.0]); // grad 1 + 2 = 3, velocity 3, update 3 + 1.5
    assert_eq!((value, optimizer.first[0]), ([1.75], 3.0));
    optimizer.step(0.5, &mut value, &[-1.0]); // grad -1 + 0.875 = -0.125, velocity 1.375, update -0.125 + 0.6875
    assert_eq!((value, optimizer.first[0]), ([1.46875], 1.375));
}

/// Adam's first step is lr in size, whatever the gradient: the bias correction is there from the start.
#[test]
fn adam_starts_with_a_step_of_the_learning_rate() {
    for grad in [1e-3, -1.0, 1e6] {
        let mut optimizer = Optimizer::new(Rule::Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8 }, 0.0, 1);
        let mut value = [0.0];
        optimizer.step(0.01, &mut value, &[grad]);
        assert_relative_eq!(value[0], -0.01 * grad.signum(), max_relative = 1e-4);
    }
}

/// A checkpoint holds rule, moments and number of steps; what continues from them continues with the same bits, on any threads.
#[test]
fn state_is_all_there_is() {
    for rule in [Rule::Sgd { momentum: 0.9, nesterov: false }, Rule::Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8 }] {
        let run = |threads: usize, interrupted: bool| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut values = seeded::values(2, LEN, -1.0..1.0);
            let mut optimizer = Optimizer::new(rule, 5e-4, LEN);
            for step in 0..4 {
                if interrupted && step == 2 {
                    let Optimizer { rule, weight_decay, first, second, steps, .. } = optimizer;
                    optimizer = Optimizer { first, second, steps, ..Optimizer::new(rule, weight_decay, LEN) };
                }
                pool.install(|| optimizer.step(0.05, &mut values, &seeded::values(20 + step, LEN, -1.0..1.0)));
            }
            values.iter().map(|v| v.to_bits()).collect::<Vec<u32>>()
        };
        let expected = run(1, false);
        assert!(run(2, false) == expected && run(1, true) == expected && run(3, true) == expected, "{rule:?}");
    }
}

/// Bounded gradients and parameters that do not decay, as PyTorch computes them in f64.
#[test]
fn updates_are_those_of_pytorch() {
    let golden: serde_json::Value = serde_json::from_str(include_str!("fixtures/updates.json")).unwrap();
    let floats = |values: &serde_json::Value| values.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect::<Vec<f64>>();
    let [from, to] = [0, 1].map(|at| golden["spared"][at].as_u64().unwrap() as usize);
    for case in golden["cases"].as_array().unwrap() {
        let (beta1, beta2, eps) = (0.9, 0.999, 1e-8);
        let rule = match case["name"].as_str().unwrap() {
            "sgd" => Rule::Sgd { momentum: 0.9, nesterov: false },
            "adam" => Rule::Adam { beta1, beta2, eps },
            _ => Rule::AdamW { beta1, beta2, eps },
        };
        let mut values: Vec<f32> = floats(&case["start"]).iter().map(|v| *v as f32).collect();
        let mut optimizer = Optimizer::new(rule, golden["weight_decay"].as_f64().unwrap() as f32, values.len());
        let mut spared = vec![0u32; values.len().div_ceil(32)];
        (from..to).for_each(|at| spared[at / 32] |= 1 << (at % 32));
        optimizer.spared = spared.into();
        optimizer.clip_norm = case["clip_norm"].as_f64().map(|most| most as f32);
        for (step, (grads, expected)) in case["grads"].as_array().unwrap().iter().zip(case["values"].as_array().unwrap()).enumerate() {
            let grads: Vec<f32> = floats(grads).iter().map(|v| *v as f32).collect();
            optimizer.step(0.1 / (step + 1) as f32, &mut values, &grads);
            for (at, (got, expected)) in values.iter().zip(floats(expected)).enumerate() {
                // f32 keeps 6e-8 of each of a few terms, all of magnitude 2 or less.
                assert!(
                    (f64::from(*got) - expected).abs() <= 1e-6,
                    "{}, step {step}, parameter {at}: {got}, expected {expected}",
                    case["name"]
                );
            }
        }
    }
}

/// The factor of bounded gradients has the same bits on any number of threads, at lengths around its parts.
#[test]
fn bounded_gradients_do_not_depend_on_threads() {
    for len in [1, 3, 1023, 1024, 1025, 262_144, 300_001] {
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut optimizer = Optimizer::new(Rule::Sgd { momentum: 0.0, nesterov: false }, 0.0, len);
            optimizer.clip_norm = Some(0.5);
            let mut values = vec![0.0; len];
            pool.install(|| optimizer.step(1.0, &mut values, &seeded::values(3, len, 1.0..2.0)));
            values
        };
        let values = run(1);
        assert_eq!(values, run(3), "{len}");
        let norm = values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        assert_relative_eq!(norm, 0.5, max_relative = 1e-5);
    }
}

/// What decides alone: the first step sets the average, and later ones keep at most k/(k + 9) of it.
#[test]
fn an_average_forgets_its_start() {
    let (decay, steps) = (0.5f32, 30);
    let mut optimizer = Optimizer::new(Rule::Sgd { momentum: 0.0, nesterov: false }, 0.0, 3);
    optimizer.average = Some(Average { decay, ..Average::default() });
    let (mut values, mut expected, mut running) = (vec![4.0f32, -8.0, 0.5], [0.0f64; 4], 1.0f32);
    for step in 0..steps {
        optimizer.step(0.125, &mut values, &seeded::values(step, 3, -1.0..1.0));
        running += 1.0;
        optimizer.average(&values, &[running]);
        let share = f64::from(decay).min(step as f64 / (step as f64 + 9.0));
        for (expected, value) in expected.iter_mut().zip(values.iter().chain([&running])) {
            *expected = share * *expected + (1.0 - share) * f64::from(*value);
        }
        let [_, _, average, average_running] = optimizer.arenas();
        for (got, expected) in average.iter().chain(average_running).zip(&expected) {
            assert_relative_eq!(f64::from(*got), *expected, max_relative = 1e-6);
        }
    }
}

#[test]
fn schedule_warms_up_linearly_and_falls_like_a_cosine() {
    let schedule = Schedule { shape: Shape::Cosine, lr: 0.1, epochs: 200, steps: 391, warmup: 400 };
    // Epochs before it, iteration over the whole run, rate.
    let cases = [
        (0.0, 0, 0.1 / 400.0),
        (0.0, 199, 0.05),
        (0.0, 399, 0.1), // the warm-up ends on the full rate
        (0.0, 400, 0.1),
        (1.0, 399, 0.05 * (1.0 + (std::f64::consts::PI / 200.0).cos())),
        (50.0, 99_999, 0.05 * (1.0 + std::f64::consts::FRAC_1_SQRT_2)),
        (100.0, 99_999, 0.05),
        (150.0, 99_999, 0.05 * (1.0 - std::f64::consts::FRAC_1_SQRT_2)),
        (199.5, 99_999, 0.05 * (1.0 - (std::f64::consts::PI / 400.0).cos())), // within an epoch
        (200.0, 99_999, 0.0),
        (100.0, 99, 0.0125), // a warm-up longer than half the run scales what the cosine leaves
    ];
    for (epoch, iteration, expected) in cases {
        assert_relative_eq!(schedule.rate(epoch, iteration), expected, max_relative = 1e-12, epsilon = 1e-15);
    }
    let without = Schedule { warmup: 0, ..schedule };
    assert_eq!(without.rate(0.0, 0), 0.1);
}

/// Values by the formulas of PyTorch 2's `MultiStepLR` and `OneCycleLR` (cosine, two phases, `div_factor` 25, `final_div_factor` 1e4),
/// computed outside of Rust.
#[test]
fn schedules_by_name_are_those_of_pytorch() {
    let multi_step =
        |milestones| Schedule { shape: Shape::MultiStep { milestones, gamma: 0.1 }, lr: 0.1, epochs: 100, steps: 7, warmup: 0 };
    for (epochs, rate) in [(0.0, 0.1), (54.0, 0.1), (54.9, 0.1), (55.0, 0.01), (74.0, 0.01), (75.0, 0.001), (99.0, 0.001)] {
        assert_relative_eq!(multi_step(&[0.55, 0.75]).rate(epochs, 1), rate, max_relative = 1e-12);
    }
    // 0.57 · 100 is a little less than 57 in floating point, 0.55 · 100 a little more than 55: both are reached on the epoch.
    assert_eq!([56.0, 57.0].map(|epochs| multi_step(&[0.57]).rate(epochs, 1) < 0.05), [false, true]);
    let one_cycle = |lr, peak_share, steps| Schedule { shape: Shape::OneCycle { peak_share }, lr, epochs: 2, steps, warmup: 0 };
    let of_40 = [
        (0, 0.004_000_000_000_000_003_6),
        (1, 0.005_944_337_266_504_118),
        (5, 0.045_168_887_762_882_31),
        (11, 0.1),
        (12, 0.099_685_611_752_220_17),
        (20, 0.076_601_697_419_351_54),
        (38, 0.000_314_788_247_779_848_5),
        (39, 4e-7),
    ];
    for (iteration, rate) in of_40 {
        assert_relative_eq!(one_cycle(0.1, 0.3, 20).rate(0.0, iteration), rate, max_relative = 1e-9);
    }
    let of_10 =
        [0.02, 0.38, 0.494_536_922_035_850_7, 0.452_254_439_576_742_5, 0.375_000_5, 0.276_133_011_288_450_14, 0.172_747_060_423_257_55];
    for (iteration, rate) in of_10.into_iter().enumerate() {
        assert_relative_eq!(one_cycle(0.5, 0.25, 5).rate(0.0, iteration), rate, max_relative = 1e-9);
    }
    // A run too short for a way up has a rate all the same.
    for iteration in 0..2 {
        assert!(one_cycle(0.5, 0.5, 1).rate(0.0, iteration).is_finite(), "{iteration}");
    }
    let warm = Schedule { warmup: 10, ..one_cycle(0.1, 0.3, 20) };
    assert_relative_eq!(warm.rate(0.0, 1), 0.2 * 0.005_944_337_266_504_118, max_relative = 1e-9);
}
