//! `dsr profile` as a table with named columns: every row of the text.

use crate::bench::Work;
use crate::cli::records::Records;
use crate::profile::collectives::OnLink;
use crate::profile::{Amount, Profile};

/// What a row of one kind has; the other kinds leave it empty.
#[derive(Default)]
struct Row {
    /// `op`, `layer`, `not_accounted`, `wall_time` or `prediction`: rows of `op` and `not_accounted` add up to `wall_time`.
    kind: &'static str,
    phase: String,
    layer: String,
    op: String,
    calls: String,
    time_ns: u64,
    share: Option<f64>,
    shared_loop: String,
    amount: Amount,
    shape: String,
    firing_rate: Option<f64>,
    kept_bytes: Option<u64>,
    peak_rss_bytes: Option<u64>,
}

impl Row {
    fn cells(self) -> [String; 15] {
        fn known(value: Option<impl ToString>) -> String {
            value.map_or_else(String::new, |value| value.to_string())
        }
        let Row { kind, phase, layer, op, calls, time_ns, share, shared_loop, amount, shape, .. } = self;
        [
            kind.into(),
            phase,
            layer,
            op,
            calls,
            time_ns.to_string(),
            known(share),
            shared_loop,
            known(amount.operations),
            known(amount.dense_operations),
            known(amount.bytes),
            shape,
            known(self.firing_rate),
            known(self.kept_bytes),
            known(self.peak_rss_bytes),
        ]
    }
}

/// All rows, with what was measured in every row.
pub(super) fn records(profile: &Profile) -> Records {
    let own = ["row", "phase", "layer", "op", "calls", "time_ns", "share", "shared_loop", "operations", "dense_operations", "bytes"];
    let of_layers = ["shape", "firing_rate", "kept_bytes", "peak_rss_bytes"];
    let about = ["mode", "model", "neuron", "time_steps", "batch", "weight_bits", "images", "seed", "device"];
    let build = ["version", "commit", "build", "cpu", "isa", "threads", "load"];
    let mut records = Records::new(own.iter().chain(&of_layers).chain(&about).chain(&build));
    let tail = tail(profile);
    for row in ops(profile).into_iter().chain(layers(profile)).chain(predictions(profile)).chain(ends(profile)) {
        records.push(row.cells().into_iter().chain(tail.clone()).collect());
    }
    records
}

fn ops(profile: &Profile) -> Vec<Row> {
    let of_op = |row: &crate::profile::OpRow| Row {
        kind: "op",
        phase: row.phase.map_or_else(String::new, |phase| format!("{phase:?}").to_lowercase()),
        layer: row.layer.clone().unwrap_or_default(),
        op: serde_json::to_value(row.op).ok().and_then(|op| op.as_str().map(String::from)).unwrap_or_default(),
        calls: row.calls.to_string(),
        time_ns: row.time_ns,
        share: Some(row.share),
        shared_loop: row.shared_loop.to_string(),
        amount: row.amount,
        ..Row::default()
    };
    profile.rows.iter().map(of_op).collect()
}

/// Two rows a layer: forward, with what the layer is, and backward.
fn layers(profile: &Profile) -> Vec<Row> {
    let of_wall = |time_ns: u64| Some(time_ns as f64 / profile.wall_ns.shown as f64);
    let of_layer = |layer: &crate::profile::LayerRow| {
        let amount = Amount { operations: Some(layer.operations), dense_operations: Some(layer.dense_operations), ..Amount::default() };
        let of_phase = |phase: &str, time_ns| Row {
            kind: "layer",
            phase: phase.into(),
            layer: layer.layer.clone(),
            time_ns,
            share: of_wall(time_ns),
            ..Row::default()
        };
        let forward = Row {
            amount,
            shape: layer.shape.map(|n| n.to_string()).join("x"),
            firing_rate: Some(layer.firing_rate),
            kept_bytes: layer.kept_bytes,
            peak_rss_bytes: layer.peak_rss_bytes,
            ..of_phase("forward", layer.forward_ns)
        };
        [forward, of_phase("backward", layer.backward_ns)]
    };
    profile.layers.iter().flat_map(of_layer).collect()
}

/// What each layer should take on the GPU that was named, and the optimizer.
fn predictions(profile: &Profile) -> Vec<Row> {
    let Some(prediction) = &profile.prediction else { return Vec::new() };
    let row = |phase: &str, layer: &str, seconds: f64| Row {
        kind: "prediction",
        phase: phase.into(),
        layer: layer.into(),
        time_ns: (1e9 * seconds).round() as u64,
        ..Row::default()
    };
    let of_layer = |layer: &crate::profile::predict::LayerPrediction| {
        [("forward", layer.forward.seconds), ("backward", layer.backward.seconds)].map(|(phase, seconds)| row(phase, &layer.layer, seconds))
    };
    let layers = prediction.layers.iter().flat_map(of_layer);
    let of_link = |on: &OnLink| {
        let row = |op: &str, seconds: f64| Row { op: format!("{op}, {}", on.link.name), ..row("exchanges", "", seconds) };
        [row("exchanges", on.seconds.iter().sum()), row("hidden", on.hidden_s), row("step", on.step_s[0])]
    };
    let exchanges = prediction.group.iter().flat_map(|group| &group.links).flat_map(of_link);
    let early = prediction.seconds_early.map(|seconds| Row { op: "with early launches".into(), ..row("inference", "", seconds) });
    layers.chain([row("optimizer", "", prediction.optimizer.seconds)]).chain(exchanges).chain(early).collect()
}

/// What no span covers, and the whole.
fn ends(profile: &Profile) -> [Row; 2] {
    let left = Row { kind: "not_accounted", op: "not_accounted".into(), time_ns: profile.not_accounted_ns, ..Row::default() };
    [left, Row { kind: "wall_time", op: "wall_time".into(), time_ns: profile.wall_ns.shown, ..Row::default() }]
}

fn tail(profile: &Profile) -> Vec<String> {
    let machine = &profile.machine;
    let setting = |name: &str| profile.config.get(name).map_or_else(String::new, |value| value.to_string().replace('"', ""));
    vec![
        if profile.mode == Work::Train { "train" } else { "infer" }.into(),
        profile.model.clone(),
        setting("neuron"),
        setting("time_steps"),
        setting("batch"),
        setting("weight_bits"),
        profile.images.clone(),
        profile.seed.to_string(),
        profile.device.clone(),
        machine.version.into(),
        machine.commit.unwrap_or_default().into(),
        machine.build.into(),
        machine.cpu.clone(),
        machine.isa.clone(),
        machine.threads.to_string(),
        machine.load.map_or_else(String::new, |load| load.to_string()),
    ]
}
