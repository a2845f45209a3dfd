//! Settings: recipes against the paper's table, precedence, every refusal, networks by name.

use dsr::data::{EventSplit, FrameRule, Orientation, Size};
use dsr::network::{Kind, Network};
use dsr::settings::{Config, NeuronKind, OptimizerKind};
use dsr::settings::{models, recipes};
use proptest::prelude::*;

fn of(text: &str) -> recipes::Layer {
    recipes::parse(text, "test.toml").unwrap()
}

/// What method.md's table says: T, Vth, α, bound, τ, Δt, lr, weight decay, batch, epochs, warm-up.
#[test]
fn recipes_are_the_papers() {
    type Row = (&'static str, usize, f64, f64, f64, Option<[f64; 2]>, f64, f64, usize, usize, usize);
    let cifar: [Row; 8] = [
        ("-lif", 20, 0.3, 0.3, 0.0005, Some([1.0, 0.05]), 0.1, 5e-4, 128, 200, 400),
        ("-if", 20, 6.0, 0.5, 0.01, None, 0.1, 5e-4, 128, 200, 400),
        ("-lif-t15", 15, 0.3, 0.3, 0.0005, Some([1.0, 0.05]), 0.1, 5e-4, 128, 200, 400),
        ("-if-t15", 15, 6.0, 0.5, 0.01, None, 0.1, 5e-4, 128, 200, 400),
        ("-lif-t10", 10, 0.3, 0.3, 0.0005, Some([1.0, 0.05]), 0.1, 5e-4, 128, 200, 400),
        ("-if-t10", 10, 6.0, 0.5, 0.01, None, 0.1, 5e-4, 128, 200, 400),
        ("-lif-t5", 5, 0.6, 0.5, 0.001, Some([1.0, 0.1]), 0.05, 5e-4, 128, 200, 400),
        ("-if-t5", 5, 6.0, 0.5, 0.01, None, 0.05, 5e-4, 128, 200, 400),
    ];
    let others: [Row; 3] = [
        ("dvs-cifar10-lif", 20, 0.3, 0.3, 0.0005, Some([1.0, 0.05]), 0.05, 5e-4, 128, 300, 400),
        ("dvs-cifar10-if", 20, 6.0, 0.5, 0.01, None, 0.05, 5e-4, 128, 300, 400),
        ("imagenet-if", 50, 6.0, 0.5, 0.01, None, 0.001, 0.0, 144, 90, 5000),
    ];
    let mut rows: Vec<(String, Row)> = others.map(|row| (row.0.to_string(), row)).into();
    for set in ["cifar10", "cifar100"] {
        rows.extend(cifar.map(|row| (format!("{set}{}", row.0), row)));
    }
    for (name, (_, time_steps, vth, alpha, bound, lif, lr, decay, batch, epochs, warmup)) in rows {
        let c = recipes::resolve(&Config::default(), &[recipes::recipe(&name).unwrap()]).unwrap();
        assert_eq!((c.time_steps, c.vth, c.alpha, c.vth_bound), (time_steps, vth, alpha, bound), "{name}");
        assert_eq!((c.lr, c.weight_decay, c.batch, c.epochs, c.warmup), (lr, decay, batch, epochs, warmup), "{name}");
        assert_eq!(c.neuron == NeuronKind::Lif, lif.is_some(), "{name}");
        if let Some([tau, delta_t]) = lif {
            assert_eq!((c.tau, c.delta_t), (tau, delta_t), "{name}");
        }
        assert!(name.starts_with(&c.dataset), "{name}: {}", c.dataset);
        // Network, dropout, padding of the crop, flip.
        let rest = match c.dataset.as_str() {
            "dvs-cifar10" => ("vgg11", 0.1, 4, false),
            "imagenet" => ("imagenet-resnet18", 0.0, 0, true),
            _ => ("preact-resnet18", 0.0, 4, true),
        };
        assert_eq!((c.model.as_str(), c.dropout, c.crop_pad, c.flip), rest, "{name}");
        assert_eq!((c.momentum, c.nesterov, c.betas), (0.9, false, [0.9, 0.999]), "{name}");
        let events = (c.event_split, c.event_frames, c.event_orientation, c.event_size);
        assert_eq!(events, (EventSplit::Dsr, FrameRule::Number, Orientation::Dsr, 48), "{name}");
        assert_eq!((c.image_size, c.image_resize, c.crop_scale, c.skip_unreadable), (224, 256, [0.08, 1.0], 0), "{name}");
        assert_eq!(c.optimizer == OptimizerKind::Adam, name.starts_with("imagenet"), "{name}");
        assert_eq!(c.threshold_grad_scale, if name.starts_with("imagenet") { 0.001 } else { 1.0 }, "{name}");
    }
}

#[test]
fn the_depth_study_is_a_recipe_with_another_network() {
    for (depth, blocks) in [(20, 3), (32, 5), (44, 7), (56, 9), (110, 18)] {
        for recipe in ["cifar10-if", "cifar10-lif"] {
            let layers = [recipes::recipe(recipe).unwrap(), of(&format!("model = 'preact-resnet{depth}'"))];
            let config = recipes::resolve(&Config::default(), &layers).unwrap();
            let network = config.network([32, 32, 3], 10).unwrap();
            // A stem, two layers a block, one before and one behind the last pool, and the logits.
            assert_eq!((network.layers.len(), network.time_steps, depth), (2 * 3 * blocks + 3, 20, 6 * blocks + 2), "{recipe}");
        }
    }
}

#[test]
fn every_recipe_builds_its_network() {
    for name in recipes::names() {
        let config = recipes::resolve(&Config::default(), &[recipes::recipe(name).unwrap()]).unwrap();
        let (shape, classes) = match config.dataset.as_str() {
            "fashion-mnist-3k" | "fashion-mnist" | "mnist" => ([28, 28, 1], 10),
            "digits-8x8" => ([8, 8, 1], 10),
            "dvs-cifar10" => ([48, 48, 2], 10),
            "dvs-gesture" => ([64, 64, 2], 11),
            "n-mnist" => ([34, 34, 2], 10),
            "n-caltech101" => ([48, 64, 2], 101),
            "events" => ([36, 64, 2], 3),
            "imagenet" => ([224, 224, 3], 1000),
            "cifar100" => ([32, 32, 3], 100),
            _ => ([32, 32, 3], 10),
        };
        let builder = models::build(&config.architecture(), shape, classes).unwrap();
        assert_eq!(builder.layers.last().unwrap().shape, [1, 1, classes], "{name}");
    }
}

#[test]
fn named_networks_have_their_depth() {
    for name in models::names().into_iter().filter(|name| *name != models::CUSTOM) {
        let shape = if name.starts_with("vgg") { [48, 48, 2] } else { [32, 32, 3] };
        let config = Config { model: name.into(), ..Config::default() };
        let builder = models::build(&config.architecture(), shape, 10).unwrap();
        let depth: usize = name.chars().filter(char::is_ascii_digit).collect::<String>().parse().unwrap();
        // Every convolution or linear layer has one neuron layer behind it and every pool one of its own: ImageNet networks have
        // two. VGG-n counts the original's three linear layers, of which one is left, and pools inside its connections.
        let expected = if name.starts_with("vgg") { depth - 2 } else { depth + 1 + usize::from(name.starts_with("imagenet")) };
        assert_eq!(builder.layers.len(), expected, "{name}");
    }
}

#[test]
fn the_last_pool_fits_the_map() {
    for (side, stages, pool) in [(32, 4, 4), (32, 3, 4), (28, 3, 7), (28, 4, 4), (8, 2, 4), (8, 4, 1), (16, 4, 2), (96, 4, 4), (33, 3, 9)] {
        assert_eq!(models::last_pool([side, side, 1], stages), pool, "side {side}, {stages} stages");
        let custom = Config { model: "preact-resnet".into(), widths: vec![4; stages], blocks: vec![1; stages], ..Config::default() };
        custom.network([side, side, 1], 10).unwrap_or_else(|e| panic!("side {side}, {stages} stages: {e}"));
    }
}

#[test]
fn later_settings_win() {
    let recipe = of("vth = 1.0\nlr = 0.5\nbatch = 10\n[if]\nvth = 2.0\n[lif]\nvth = 0.6");
    let file = of("lr = 0.25\nepochs = 3\n[lif]\ntau = 2.0");
    let resolve = |flags: &str| recipes::resolve(&Config::default(), &[recipe.clone(), file.clone(), of(flags)]).unwrap();
    let config = resolve("batch = 7");
    assert_eq!((config.vth, config.lr, config.epochs, config.batch, config.tau), (2.0, 0.25, 3, 7, 1.0));
    let config = resolve("neuron = 'lif'\nlr = 1");
    assert_eq!((config.vth, config.lr, config.tau), (0.6, 1.0, 2.0));
    assert_eq!(resolve("vth = 9").vth, 9.0);
}

#[test]
fn widths_and_a_named_model_replace_each_other() {
    let custom = of("widths = [4, 8]\nblocks = [1, 1]");
    let named = of("model = 'preact-resnet20'");
    let resolve = |layers: &[&recipes::Layer]| {
        let layers: Vec<_> = layers.iter().map(|&layer| layer.clone()).collect();
        recipes::resolve(&Config::default(), &layers).unwrap()
    };
    let config = resolve(&[&named, &custom]);
    assert_eq!((config.model.as_str(), config.widths, config.blocks), ("preact-resnet", vec![4, 8], vec![1, 1]));
    let config = resolve(&[&custom, &named]);
    assert_eq!((config.model.as_str(), config.widths.len(), config.blocks.len()), ("preact-resnet20", 0, 0));
}

#[test]
fn the_recipe_of_a_data_set() {
    let cases = [
        ("fashion-mnist-3k", "", "fashion-mnist-3k"),
        ("mnist", "", "mnist"),
        ("fashion-mnist", "neuron = 'lif'", "fashion-mnist"),
        ("digits-8x8", "neuron = 'lif'", "digits-8x8"),
        ("cifar10", "", "cifar10-if"),
        ("cifar100", "neuron = 'lif'", "cifar100-lif"),
        ("cifar10", "neuron = 'lif'\ntime_steps = 5", "cifar10-lif-t5"),
        ("cifar10", "time_steps = 10", "cifar10-if"),
        ("dvs-cifar10", "neuron = 'lif'", "dvs-cifar10-lif"),
        ("imagenet", "", "imagenet-if"),
    ];
    for (dataset, settings, recipe) in cases {
        let name = recipes::name_for(dataset, &[of(settings)]);
        assert_eq!(name, recipe, "{dataset} {settings}");
        assert!(recipes::recipe(&name).is_ok(), "{name}");
    }
    let other = recipes::resolve(&Config::default(), &[recipes::recipe("cifar10-if").unwrap(), of("neuron = 'lif'")]).unwrap_err();
    assert!(other.to_string().contains("cifar10-if has no settings for 'lif'"), "{other}");
}

/// Text of a file and what the error must say.
#[test]
fn wrong_files_are_named() {
    let cases = [
        ("learning_rate = 0.1", &["test.toml", "learning_rate"][..]),
        ("[if]\nVth = 1", &["test.toml", "[if]", "Vth"]),
        ("lr = 'fast'", &["test.toml", "fast"]),
        ("epochs = -1", &["test.toml", "-1"]),
        ("neuron = 'izhikevich'", &["izhikevich", "lif"]),
        ("if = 1", &["[if]"]),
        ("lr = 0.1\nlr = = 2", &["test.toml", "line 2"]),
        ("[train]\nlr = 1", &["train"]),
    ];
    for (text, words) in cases {
        let error = recipes::parse(text, "test.toml").unwrap_err().to_string();
        assert!(words.iter().all(|word| error.contains(word)) && !error.contains('\n'), "{text:?}: {error}");
    }
    let error = recipes::recipe("cifar11").unwrap_err().to_string();
    assert!(error.contains("cifar11") && error.contains("cifar10-lif"), "{error}");
}

/// A setting and what the error must name.
#[test]
fn impossible_settings_are_refused() {
    let cases = [
        ("time_steps = 0", "time-steps"),
        ("time_steps = 256", "time-steps"),
        ("batch = 0", "batch"),
        ("epochs = 0", "epochs"),
        ("val_share = -0.1", "val-share"),
        ("val_share = 1", "val-share"),
        ("val_share = nan", "val-share"),
        ("gamma = 0.5", "gamma"),
        ("schedule = 'multi-step'\ngamma = 0", "gamma"),
        ("schedule = 'multi-step'\ngamma = nan", "gamma"),
        ("milestones = [0.25]", "milestones"),
        ("schedule = 'multi-step'\nmilestones = []", "milestones"),
        ("schedule = 'multi-step'\nmilestones = [0.5, 0.5]", "milestones"),
        ("schedule = 'multi-step'\nmilestones = [0.5, 1]", "milestones"),
        ("peak_share = 0.5", "peak-share"),
        ("schedule = 'one-cycle'\npeak_share = 1", "peak-share"),
        ("lr = 0", "lr"),
        ("lr = -0.1", "lr"),
        ("lr = nan", "lr"),
        ("lr = inf", "lr"),
        ("lr = 1e300", "lr"),
        ("lr = 1e-300", "lr"),
        ("vth = 0", "vth"),
        ("vth_bound = 0", "vth-bound"),
        ("alpha = -1", "alpha"),
        ("tau = 0", "tau"),
        ("delta_t = nan", "delta-t"),
        ("threshold_grad_scale = -1", "threshold-grad-scale"),
        ("weight_bits = 4", "weight-bits"),
        ("momentum = 1", "momentum"),
        ("momentum = 0\nnesterov = true", "nesterov"),
        ("optimizer = 'adam'\nnesterov = true", "nesterov"),
        ("betas = [0.9, 1.0]", "betas"),
        ("eps = 0", "eps"),
        ("weight_decay = -1e-4", "weight-decay"),
        ("dropout = 1", "dropout"),
        ("mixup = -0.2", "mixup"),
        ("mixup = 101", "mixup"),
        ("mixup = nan", "mixup"),
        ("dataset = 'dvs-cifar10'\nauto_augment = 'cifar10'", "auto-augment"),
        ("cutout = 4097", "cutout"),
        ("label_smoothing = 1", "label-smoothing"),
        ("label_smoothing = -0.1", "label-smoothing"),
        ("label_smoothing = nan", "label-smoothing"),
        ("dropout = 0.1\nmodel = 'imagenet-resnet18'", "dropout"),
        ("event_size = 0", "event-size"),
        ("event_size = 129", "event-size"),
        ("image_size = 0", "image-size"),
        ("image_size = 257", "image-resize"),
        ("image_resize = 5000", "image-resize"),
        ("crop_scale = [0.0, 1.0]", "crop-scale"),
        ("crop_scale = [0.5, 0.4]", "crop-scale"),
        ("crop_scale = [0.5, 1.1]", "crop-scale"),
        ("crop_scale = [nan, 1.0]", "crop-scale"),
        ("dataset = 'imagenet'", "crop-pad"),
        ("model = 'preact-resnet19'", "model"),
        ("widths = [16, 32]\nblocks = [1]", "widths"),
        ("widths = [16, 0]\nblocks = [1, 1]", "widths"),
        ("widths = [16]\nblocks = [1]\nmodel = 'vgg11'", "widths"),
        ("model = 'preact-resnet'", "widths"),
    ];
    for (text, name) in cases {
        let error = recipes::resolve(&Config::default(), &[of(text)]).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{name}: ")) && !error.contains('\n'), "{text:?}: {error}");
    }
    let huge = Config { seed: u64::MAX, ..Config::default() };
    assert!(huge.check().unwrap_err().to_string().starts_with("seed: "));
}

#[test]
fn a_resumed_run_is_the_same_run() {
    let trained = Config { data_dir: Some("/a".into()), ..Config::default() };
    let free = Config { epochs: 3, threads: 2, data_dir: None, cache_dir: Some("/b".into()), ..trained.clone() };
    trained.check_resume(&free).unwrap();
    let cases = [
        (Config { time_steps: 8, ..trained.clone() }, "time-steps", "20", "8"),
        (Config { dataset: "cifar100".into(), ..trained.clone() }, "dataset", "\"cifar10\"", "\"cifar100\""),
        (Config { seed: 1, ..trained.clone() }, "seed", "0", "1"),
        (Config { widths: vec![4], ..trained.clone() }, "widths", "[]", "[4]"),
    ];
    for (wanted, name, had, asked) in cases {
        let error = trained.check_resume(&wanted).unwrap_err().to_string();
        assert!(error.contains(&format!("{name} {had} (asked for: {asked})")), "{error}");
    }
}

proptest! {
    /// What a run writes into its folder gives the same run again.
    #[test]
    fn configurations_survive_toml(lr in 1e-6f64..10.0, vth in 1e-3f64..10.0, seed in 0..=i64::MAX as u64, batch in 1usize..1000,
        lif: bool, widths in proptest::collection::vec(1usize..600, 1..5), flip: bool) {
        let neuron = if lif { NeuronKind::Lif } else { NeuronKind::If };
        let blocks = vec![1; widths.len()];
        let config = Config { lr, vth, seed, batch, neuron, widths, blocks, model: "preact-resnet".into(), flip, ..Config::default() };
        let layer = recipes::parse(&config.to_toml().unwrap(), "config.toml").unwrap();
        prop_assert_eq!(recipes::resolve(&Config::default(), &[layer]).unwrap(), config);
    }

    /// No text makes the parser panic or answer in more than a line.
    #[test]
    fn any_text_is_settings_or_one_line(text in "[a-z_\\[\\]=0-9\\.'\" \n]{0,80}") {
        if let Err(error) = recipes::parse(&text, "x.toml") {
            prop_assert!(!error.to_string().contains('\n'));
        }
    }
}

/// Thresholds, batch norms and biases are spared with `decay_on = "weights"`, thresholds alone with frozen ones, nothing else ever.
#[test]
fn what_does_not_decay() {
    let is_threshold = |network: &Network, index: usize| network.layers.iter().any(|layer| layer.threshold == Some(index));
    let is_weight = |network: &Network, index: usize| {
        let mut connections = network.layers.iter().flat_map(|layer| &layer.connections);
        connections.any(|connection| matches!(connection.kind, Kind::Conv { weight, .. } if weight == index))
    };
    for text in ["", "freeze_thresholds = true", "decay_on = 'weights'"] {
        for model in ["preact-resnet20", "vgg11", "imagenet-resnet18"] {
            let config = recipes::resolve(&Config::default(), &[of(&format!("model = '{model}'\n{text}"))]).unwrap();
            let network = config.network([48, 48, 3], 10).unwrap();
            let optimizer = config.optimizer(&network);
            assert_eq!(optimizer.spared.is_empty(), text.is_empty(), "{text}");
            assert_eq!(network.threshold_grad_scale == 0.0, text.starts_with("freeze"), "{text}");
            for (index, parameter) in network.parameters.iter().enumerate().filter(|_| !optimizer.spared.is_empty()) {
                let expected = if text.starts_with("freeze") { is_threshold(&network, index) } else { !is_weight(&network, index) };
                let bits: Vec<bool> =
                    (parameter.start..parameter.start + parameter.len).map(|at| optimizer.spared[at / 32] >> (at % 32) & 1 == 1).collect();
                assert!(bits.iter().all(|&bit| bit == expected), "{text}, {model}: {}", parameter.name);
            }
        }
    }
}

/// What a run writes of its settings gives them again, whatever the recipe below says.
#[test]
fn complete_settings_win_over_every_recipe() {
    for name in recipes::names() {
        let config = recipes::resolve(&Config::default(), &[recipes::recipe(name).unwrap()]).unwrap();
        let text = config.to_complete_toml().unwrap();
        for other in recipes::names() {
            let layers = [recipes::recipe(other).unwrap(), of(&text)];
            let Ok(found) = recipes::resolve(&Config::default(), &layers) else { continue }; // a recipe for the other neuron
            assert_eq!(found, config, "{name} over {other}");
        }
    }
}

/// 0 switches off what a file has switched on, and the recipe's choice of thresholds is not an ANN's.
#[test]
fn settings_can_be_switched_off() {
    let file = of("ema = 0.9\nclip_norm = 1.0\nval_share = 0.1");
    let off = recipes::resolve(&Config::default(), &[file, of("ema = 0.0\nclip_norm = 0.0\nval_share = 0.0")]).unwrap();
    assert_eq!((off.ema, off.clip_norm, off.val_share), (None, None, None));
    let camera = of("dataset = 'events'\nsensor = '3x4'\nframe_size = '1x2'\nframe_ms = 2.5");
    let on = recipes::resolve(&Config::default(), std::slice::from_ref(&camera)).unwrap();
    assert_eq!((on.sensor, on.frame_size, on.frame_ms), (Some(Size([3, 4])), Some(Size([1, 2])), Some(2.5)));
    let off = recipes::resolve(&Config::default(), &[camera, of("sensor = '0x0'\nframe_size = '0x0'\nframe_ms = 0.0")]).unwrap();
    assert_eq!((off.sensor, off.frame_size, off.frame_ms), (None, None, None));
    for name in ["cifar10-fast", "cifar100-fast", "dvs-cifar10-fast"] {
        let ann = recipes::resolve(&Config::default(), &[recipes::recipe(name).unwrap(), of("neuron = 'relu'")]);
        assert!(ann.is_ok(), "{name}: {ann:?}");
    }
}
