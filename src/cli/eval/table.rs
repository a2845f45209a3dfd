//! `dsr eval` as a table with named columns: everything that the text says.

use super::*;
use crate::cli::records::Records;

impl Shown<'_> {
    /// A row per T, or a row per layer with `--rates`, or a row per pair of classes with `--confusion`; and a row per class with `--per-class`.
    pub(super) fn records(&self, results: &[Measured]) -> Records {
        let mut heads = vec!["time_steps", "n", "top1", "loss"];
        if self.args.confusion {
            heads.extend(["true", "predicted", "count"]);
        } else if self.args.rates {
            heads.extend(["layer", "firing_rate", "ac", "mac", "energy_j", "ann_ac", "ann_mac", "ann_energy_j", "neuron_updates"]);
            heads.extend(["operations", "dense_operations"]);
        } else {
            heads.push("firing_rate");
        }
        heads.extend(["model", "neuron", "dataset", "weight_bits", "seed", "device", "version", "commit", "cpu", "threads"]);
        heads.extend(["top1_low", "top1_high", "top5", "top5_low", "top5_high", "tied", "ties", "images_per_second", "checkpoint"]);
        if self.args.per_class {
            heads.extend(["class", "class_n", "class_correct"]);
        }
        let mut records = Records::new(heads);
        for measured in results {
            self.rows(measured).into_iter().for_each(|row| records.push(row));
        }
        records
    }

    /// Rows of one T.
    fn rows(&self, measured: &Measured) -> Vec<Vec<String>> {
        let evaluation = &measured.evaluation;
        let n = evaluation.labels.len();
        let head = [measured.time_steps as f64, n as f64, evaluation.accuracy(), evaluation.loss].map(|v| v.to_string());
        let tail = self.tail(measured);
        let no_class = || if self.args.per_class { vec![String::new(); 3] } else { Vec::new() };
        let row = |middle: Vec<String>, class: Vec<String>| head.iter().chain(&middle).chain(&tail).chain(&class).cloned().collect();
        if self.args.confusion {
            let pairs = confusion::rows(&self.dataset.classes, &evaluation.confusion());
            return pairs.into_iter().map(|pair| row(pair.into(), no_class())).collect();
        }
        let mut rows: Vec<Vec<String>> = if self.args.rates {
            self.layers(measured).into_iter().map(|middle| row(middle, no_class())).collect()
        } else {
            vec![row(vec![measured.firing_rate.to_string()], no_class())]
        };
        if self.args.per_class {
            let middle = vec![String::new(); if self.args.rates { 11 } else { 1 }];
            let classes = self.dataset.classes.iter().zip(evaluation.per_class());
            rows.extend(classes.map(|(name, [n, hits])| row(middle.clone(), vec![name.clone(), n.to_string(), hits.to_string()])));
        }
        rows
    }

    /// What each layer did.
    fn layers(&self, measured: &Measured) -> Vec<Vec<String>> {
        let n = measured.evaluation.labels.len();
        let counts = Counts::of_network(self.network, &measured.operations, n);
        let layers = self.network.layers.iter().zip(&measured.evaluation.rates).zip(&measured.operations).zip(&counts);
        let cells = |(((layer, rate), operations), counts): (((&SpikingLayer, &f64), &Operations), &Counts)| {
            let (energy, ann) = (counts.joules(&energy::FLOAT), counts.ann_joules(&energy::FLOAT));
            let per_image = [operations.actual, operations.dense].map(|operations| operations as f64 / n as f64);
            let rate = if layer.fires() { rate.to_string() } else { String::new() };
            let numbers = [counts.ac, counts.mac, energy, counts.ann_ac, counts.ann_mac, ann, counts.updates];
            [layer.name.clone(), rate].into_iter().chain(numbers.iter().chain(&per_image).map(f64::to_string)).collect()
        };
        layers.map(cells).collect()
    }

    /// What stands in every row of one T.
    fn tail(&self, measured: &Measured) -> Vec<String> {
        let (machine, config, evaluation) = (machine(), self.config, &measured.evaluation);
        let n = evaluation.labels.len();
        let mut tail = vec![
            config.model_name(),
            config.neuron.name().into(),
            self.dataset.label(),
            config.weight_bits.to_string(),
            config.seed.to_string(),
            self.network.device().to_string(),
            machine.version.into(),
            machine.commit.unwrap_or_default().into(),
            machine.cpu,
            machine.threads.to_string(),
        ];
        tail.extend(wilson_interval(evaluation.correct(1), n).map(|end| end.to_string()));
        if self.top().contains(&5) {
            let hits = evaluation.correct(5);
            tail.push((hits as f64 / n as f64).to_string());
            tail.extend(wilson_interval(hits, n).map(|end| end.to_string()));
        } else {
            tail.extend(vec![String::new(); 3]);
        }
        tail.push((evaluation.ties() as f64 / n as f64).to_string());
        tail.push(if self.args.ties == Ties::Current { "current" } else { "first" }.into());
        tail.push((n as f64 / measured.seconds).to_string());
        tail.push(self.path.display().to_string());
        tail
    }
}
