//! A profile as one page for a browser: no script, no font, no picture and no style from elsewhere.

mod charts;

use std::collections::BTreeMap;

use super::{Profile, predict::Cost};
use crate::bench::Work;
use crate::clock::Op;
use charts::{Bar, Point, bars, curve, escape, heatmap, histogram, key, table};

/// The whole document.
pub fn page(profile: &Profile) -> String {
    let mode = if profile.mode == Work::Train { "training step" } else { "inference" };
    let title = escape(&format!("{}: one {mode}", profile.model));
    // Two columns where there is room, filled one after the other.
    let left = [time_by_layer(profile), memory(profile), accuracy(profile)].concat();
    let right = [time_by_op(profile), rates(profile)].concat();
    let wide = [potentials(profile), prediction(profile)].concat();
    let sections = format!("<div>\n{left}</div>\n<div>\n{right}</div>\n<div class=\"wide\">\n{wide}</div>\n");
    let style = include_str!("style.css");
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>dsr profile: {title}</title>\n\
         <style>\n{style}</style>\n</head>\n<body>\n<main>\n<header>\n<h1>{title}</h1>\n{}</header>\n<div class=\"sections\">\n{}</div>\n{}</main>\n</body>\n</html>\n",
        summary(profile),
        sections,
        footer(profile)
    )
}

fn summary(profile: &Profile) -> String {
    let config = |name: &str| profile.config.get(name).map_or_else(String::new, |value| value.to_string().replace('"', ""));
    let wall = profile.wall_ns.shown as f64;
    let batch: f64 = config("batch").parse().unwrap_or(1.0);
    let facts = [
        ("Wall time", milliseconds(profile.wall_ns.shown) + " ms"),
        ("Images a second", format!("{:.1}", batch / wall * 1e9)),
        ("Batch", config("batch")),
        ("Time steps T", config("time_steps")),
        ("Neuron", config("neuron").to_uppercase()),
        ("Timers cost", profile.wall_ns.measured_overhead().map_or("less than measurable".into(), |cost| format!("{:.2} %", 100.0 * cost))),
    ];
    let fact = |(name, value): &(&str, String)| format!("<div><dt>{name}</dt><dd>{}</dd></div>", escape(value));
    format!(
        "<p class=\"lead\">On {}, with {} images: the step with the median wall time of {}.</p>\n<dl class=\"facts\">{}</dl>\n",
        escape(&profile.device),
        escape(&profile.images),
        profile.wall_ns.with_timers.len(),
        facts.iter().map(fact).collect::<String>()
    )
}

fn section(title: &str, words: &str, content: &str) -> String {
    format!("<section>\n<h2>{}</h2>\n<p>{}</p>\n{content}\n</section>\n", escape(title), escape(words))
}

fn figure(chart: &str, key: &str) -> String {
    format!("<figure>{chart}{key}</figure>")
}

fn time_by_layer(profile: &Profile) -> String {
    let is_training = profile.mode == Work::Train;
    let bar = |label: &str, parts: [u64; 3]| Bar {
        label: label.into(),
        parts: ["one", "two", "three"].into_iter().zip(parts.map(|ns| ns as f64)).collect(),
        text: milliseconds(parts.iter().sum()),
    };
    let mut rows: Vec<Bar> = profile.layers.iter().map(|layer| bar(&layer.layer, [layer.forward_ns, layer.backward_ns, 0])).collect();
    let elsewhere: u64 = profile.rows.iter().filter(|row| row.layer.is_none()).map(|row| row.time_ns).sum();
    rows.push(bar("no layer", [0, 0, elsewhere]));
    rows.push(bar("not accounted", [0, 0, profile.not_accounted_ns]));
    let cells = |bar: &Bar| {
        let of = |index: usize| milliseconds(bar.parts[index].1 as u64);
        let total: f64 = bar.parts.iter().map(|part| part.1).sum();
        vec![bar.label.clone(), of(0), of(1), of(2), format!("{:.1}", 100.0 * total / profile.wall_ns.shown as f64)]
    };
    let numbers: Vec<Vec<String>> = rows.iter().map(cells).collect();
    let slowest = profile.layers.iter().max_by_key(|layer| layer.forward_ns + layer.backward_ns);
    let words =
        slowest.map_or_else(String::new, |layer| format!("The longest is {} with {:.1} % of the step.", layer.layer, 100.0 * layer.share));
    let names: &[(&str, &str)] = match is_training {
        true => &[("one", "forward"), ("two", "backward"), ("three", "loss, optimiser, data")],
        false => &[("one", "forward"), ("three", "data")],
    };
    let chart = bars("layers", "Time by layer", &format!("Milliseconds of each layer, layers from first to last. {words}"), &rows);
    let content = figure(&chart, &key(names)) + &table("Milliseconds by layer", &["layer", "forward", "backward", "other", "%"], &numbers);
    section("Time by layer", &format!("Milliseconds. All bars add up to the wall time. {words}"), &content)
}

fn time_by_op(profile: &Profile) -> String {
    let mut ops: BTreeMap<Op, (u64, bool)> = BTreeMap::new();
    for row in &profile.rows {
        let entry = ops.entry(row.op).or_default();
        entry.0 += row.time_ns;
        entry.1 |= row.shared_loop;
    }
    let mut sorted: Vec<(Op, u64, bool)> = ops.into_iter().map(|(op, (time, shared))| (op, time, shared)).collect();
    sorted.sort_by_key(|row| std::cmp::Reverse(row.1));
    let name = |op: Op, shared: bool| format!("{}{}", op.name(), if shared { " *" } else { "" });
    let row = |&(op, time, shared): &(Op, u64, bool)| Bar {
        label: name(op, shared),
        parts: vec![("one", time as f64)],
        text: milliseconds(time),
    };
    let rows: Vec<Bar> = sorted.iter().map(row).collect();
    let wall = profile.wall_ns.shown as f64;
    let numbers: Vec<Vec<String>> = sorted
        .iter()
        .map(|&(op, time, shared)| vec![name(op, shared), milliseconds(time), format!("{:.1}", 100.0 * time as f64 / wall)])
        .collect();
    let chart = bars("ops", "Time by operation", "Milliseconds of each kind of work over all layers, the longest first.", &rows);
    let words = "Milliseconds over all layers. With a star: shared a parallel loop, whose time was split by looking at every fifth strip of positions.";
    section("Time by operation", words, &(figure(&chart, "") + &table("Milliseconds by operation", &["operation", "ms", "%"], &numbers)))
}

fn memory(profile: &Profile) -> String {
    let bar = |layer: &super::LayerRow| Bar {
        label: layer.layer.clone(),
        parts: vec![("one", layer.kept_bytes.unwrap_or(0) as f64), ("two", layer.spike_bytes as f64)],
        text: megabytes(layer.kept_bytes.unwrap_or(0) + layer.spike_bytes),
    };
    let rows: Vec<Bar> = profile.layers.iter().map(bar).collect();
    let cells = |layer: &super::LayerRow| {
        let or_dash = |bytes: Option<u64>| bytes.map_or("-".into(), megabytes);
        vec![layer.layer.clone(), or_dash(layer.kept_bytes), megabytes(layer.spike_bytes), or_dash(layer.peak_rss_bytes)]
    };
    let numbers: Vec<Vec<String>> = profile.layers.iter().map(cells).collect();
    let chart = bars("memory", "Memory by layer", "Megabytes that each layer keeps for backward, and of its spikes.", &rows);
    let heads = ["layer", "kept MB", "spikes MB", "process peak MB"];
    let content = figure(&chart, &key(&[("one", "kept for backward"), ("two", "spikes")])) + &table("Megabytes by layer", &heads, &numbers);
    section(
        "Memory by layer",
        "Megabytes. What is kept for backward does not grow with T; spikes are freed once no later layer reads them.",
        &content,
    )
}

fn rates(profile: &Profile) -> String {
    let of_layer = |layer: &super::LayerRow| (layer.layer.clone(), layer.rates_by_step.clone());
    let rows: Vec<(String, Vec<f64>)> = match &profile.activity {
        Some(activity) => activity.layers.iter().map(|layer| (layer.layer.clone(), layer.rates.clone())).collect(),
        // A readout by current has no neurons.
        None => profile.layers.iter().map(of_layer).filter(|(_, rates)| !rates.is_empty()).collect(),
    };
    let mean = |rates: &[f64]| rates.iter().sum::<f64>() / rates.len().max(1) as f64;
    let bar = |(label, rates): &(String, Vec<f64>)| Bar {
        label: label.clone(),
        parts: vec![("one", mean(rates))],
        text: format!("{:.4}", mean(rates)),
    };
    let means: Vec<Bar> = rows.iter().map(bar).collect();
    let largest = rows.iter().flat_map(|row| &row.1).copied().fold(0.0, f64::max);
    let steps = rows.iter().map(|row| row.1.len()).max().unwrap_or(0);
    let heads: Vec<String> = ["layer".into(), "mean".into()].into_iter().chain((1..=steps).map(|t| format!("t = {t}"))).collect();
    let heads: Vec<&str> = heads.iter().map(String::as_str).collect();
    let cells = |(label, rates): &(String, Vec<f64>)| {
        [label.clone(), format!("{:.4}", mean(rates))].into_iter().chain(rates.iter().map(|rate| format!("{rate:.4}"))).collect()
    };
    let numbers: Vec<Vec<String>> = rows.iter().map(cells).collect();
    let chart = bars("rates", "Firing rate by layer", "Spikes per neuron and step, mean over all steps.", &means);
    let map = heatmap(
        "steps",
        "Firing rate by layer and step",
        &format!("Spikes a neuron at each step; the darkest cell is {largest:.4}."),
        &rows,
    );
    let content = figure(&chart, "")
        + &format!(
            "<h3>By time step</h3><p>The darkest colour is a rate of {largest:.4}; the first steps show how long spikes take to reach deeper layers.</p>"
        )
        + &figure(&map, "")
        + &table("Spikes per neuron and step", &heads, &numbers);
    section("Firing rates", "Spikes per neuron and step, in an inference with the network as it was before the steps.", &content)
}

fn potentials(profile: &Profile) -> String {
    let Some(activity) = &profile.activity else { return String::new() };
    let [low, high] = activity.range;
    let mut charts = String::new();
    let mut numbers = Vec::new();
    for (index, layer) in activity.layers.iter().enumerate() {
        let total = layer.potentials.iter().sum::<u64>().max(1) as f64;
        let bins = layer.potentials.len() as f32;
        let value = |bin: usize| low + (high - low) * (bin as f32 + 0.5) / bins;
        let share = |keep: &dyn Fn(f32) -> bool| {
            let counted = layer.potentials.iter().enumerate().filter(|(bin, _)| keep(value(*bin))).map(|(_, count)| count);
            100.0 * counted.sum::<u64>() as f64 / total
        };
        let above = share(&|v| v >= activity.alpha);
        let description = format!("Membrane potentials of {}; {above:.1} % lie where the neuron fires.", layer.layer);
        let chart = histogram(&format!("v{index}"), &layer.layer, &description, &layer.potentials, activity.range, activity.alpha);
        charts += &format!("<div><h3>{}</h3>{}</div>", escape(&layer.layer), figure(&chart, ""));
        let [below, middle] = [share(&|v| v < 0.0), share(&|v| v >= 0.0 && v < activity.alpha)];
        numbers.push(vec![layer.layer.clone(), format!("{below:.1}"), format!("{middle:.1}"), format!("{above:.1}")]);
    }
    let words = format!(
        "After charging and before the reset, in units of the threshold, over all neurons and steps of {} images. A neuron fires at or above the line, at {}. Values outside ±{high} are counted in the outermost, paler bins. Each histogram has its own height.",
        activity.potential_samples, activity.alpha
    );
    let heads = ["layer", "% below 0", "% from 0 to the line", "% that fires"];
    section(
        "Membrane potentials",
        &words,
        &format!("<div class=\"many\">{charts}</div>{}", table("Share of the potentials, to the width of a bin", &heads, &numbers)),
    )
}

fn accuracy(profile: &Profile) -> String {
    let Some(accuracy) = profile.accuracy.as_ref().filter(|list| !list.is_empty()) else { return String::new() };
    let place = |steps: usize| (steps as f64).ln_1p();
    let (first, last) = (place(accuracy[0].time_steps), place(accuracy[accuracy.len() - 1].time_steps));
    let point = |a: &super::Accuracy| Point {
        x: if last > first { (place(a.time_steps) - first) / (last - first) } else { 0.5 },
        label: a.time_steps.to_string(),
        value: a.top1,
        interval: a.interval,
    };
    let points: Vec<Point> = accuracy.iter().map(point).collect();
    let percent = |value: f64| format!("{:.1}", 100.0 * value);
    let numbers: Vec<Vec<String>> = accuracy
        .iter()
        .map(|a| {
            vec![a.time_steps.to_string(), percent(a.top1), percent(a.interval[0]), percent(a.interval[1]), format!("{:.4}", a.firing_rate)]
        })
        .collect();
    let chart = curve(
        "accuracy",
        "Accuracy against T",
        "Top-1 accuracy on the test split with fewer time steps than in training, and with as many.",
        &points,
    );
    let heads = ["T", "top-1 %", "low", "high", "firing rate"];
    let content = figure(&chart, "") + &table("Accuracy against T, with 95 % intervals", &heads, &numbers);
    section("Accuracy against T", "Top-1 on the test split; pale lines are 95 % intervals.", &content)
}

fn prediction(profile: &Profile) -> String {
    let Some(prediction) = &profile.prediction else { return String::new() };
    let microseconds = |seconds: f64| format!("{:.1}", 1e6 * seconds);
    let costs = prediction.layers.iter().map(|layer| (layer.layer.clone(), layer.forward, layer.backward));
    let costs: Vec<(String, Cost, Cost)> = costs.chain([("optimiser".into(), Cost::default(), prediction.optimizer)]).collect();
    let bar = |(label, forward, backward): &(String, Cost, Cost)| Bar {
        label: label.clone(),
        parts: vec![("one", forward.seconds), ("two", backward.seconds)],
        text: microseconds(forward.seconds + backward.seconds),
    };
    let rows: Vec<Bar> = costs.iter().map(bar).collect();
    let numbers: Vec<Vec<String>> = costs
        .iter()
        .map(|(label, forward, backward)| {
            vec![label.clone(), microseconds(forward.seconds), microseconds(backward.seconds), forward.bound().into()]
        })
        .collect();
    let gpu = prediction.gpu.name;
    let chart =
        bars("prediction", &format!("Predicted time on {gpu}"), "Microseconds of each layer by a roofline; nothing was measured.", &rows);
    let names: &[(&str, &str)] =
        if profile.mode == Work::Train { &[("one", "forward"), ("two", "backward, optimiser")] } else { &[("one", "forward")] };
    let content = format!("<p class=\"note\">A prediction from shapes and the data sheet. Nothing was measured on a {gpu}.</p>")
        + &figure(&chart, &key(names))
        + &table("Predicted microseconds", &["layer", "forward", "backward", "forward bound by"], &numbers);
    section(&format!("Prediction for {gpu}"), &format!("Microseconds; {:.3} ms in all.", 1e3 * prediction.seconds), &content)
}

fn footer(profile: &Profile) -> String {
    let machine = &profile.machine;
    let commit = machine.commit.map_or(String::new(), |commit| format!(", commit {commit}"));
    format!(
        "<footer>dsr {} ({}, {}{}), seed {}. {}, {}, {} threads of {} cores{}.</footer>\n",
        machine.version,
        machine.build,
        machine.target,
        escape(&commit),
        profile.seed,
        escape(&machine.cpu),
        machine.isa,
        machine.threads,
        machine.cores,
        machine.load.map_or(String::new(), |load| format!(", load {load} before"))
    )
}

fn milliseconds(nanoseconds: u64) -> String {
    let value = nanoseconds as f64 / 1e6;
    if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

fn megabytes(bytes: u64) -> String {
    format!("{:.2}", bytes as f64 / 1e6)
}
