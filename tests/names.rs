//! Wrong names of data sets, networks, recipes, settings and operations, by the real binary: one line, with the name that was meant.

#[path = "support/command.rs"]
mod command;

use std::fs;

use command::{dsr, ok};
use tempfile::tempdir;

#[test]
fn a_wrong_name_brings_the_one_that_was_meant() {
    let folder = tempdir().unwrap();
    let files = [
        ("key.toml", "epoch = 3"),
        ("dash.toml", "vth-bound = 3"),
        ("section.toml", "[lf]\nvth = 1"),
        ("keyinside.toml", "[lif]\ndelta = 1"),
        ("neuron.toml", "neuron = 'fi'"),
        ("schedule.toml", "schedule = 'cosinus'"),
        ("set.toml", "dataset = 'digit-8x8'"),
        ("break.toml", "\"epo\\nchs\" = 1"),
        ("quote.toml", "\"a`b\" = 1"),
        ("quotes.toml", "\"`, expected one of `a\" = 1"),
        ("quoteinside.toml", "[lif]\n\"a`, expected `b\" = 1"),
        ("breakvalue.toml", "neuron = \"i\\nf\""),
        ("quotevalue.toml", "schedule = \"cosine`, expected `x\""),
        ("kind.toml", "warmup = 4\nlr = \"a\\nin `b`\""),
    ];
    files.iter().for_each(|(name, text)| fs::write(folder.path().join(name), text).unwrap());
    let cases = [
        ("train -d fashon-mnist", "error: dataset: unknown data set 'fashon-mnist'; did you mean 'fashion-mnist'? known are "),
        ("train -d CIFAR-10", "error: dataset: unknown data set 'CIFAR-10'; did you mean 'cifar10'? known are "),
        ("train -d nothing-like-it", "error: dataset: unknown data set 'nothing-like-it'; known are "),
        ("data info -d minst", "error: dataset: unknown data set 'minst'; did you mean 'mnist'? "),
        ("bench data -d digit-8x8", "error: dataset: unknown data set 'digit-8x8'; did you mean 'digits-8x8'? "),
        ("profile -d imagnet", "error: dataset: unknown data set 'imagnet'; did you mean 'imagenet'? "),
        ("train --model resnet18", "error: model: unknown network 'resnet18'; did you mean 'preact-resnet18'? "),
        ("bench latency --model vgg-11,vgg1l", "error: model: unknown network 'vgg-11'; did you mean 'vgg11'? "),
        ("train --recipe cifar10-fst", "error: recipe: unknown recipe 'cifar10-fst'; did you mean 'cifar10-fast'? "),
        ("recipe show cifar10_lif", "error: recipe: unknown recipe 'cifar10_lif'; did you mean 'cifar10-lif'? "),
        ("bench kernels --op spikeconv", "error: op: no op has 'spikeconv' in its name; did you mean 'spike_conv'? known are "),
        ("train --config key.toml", "error: key.toml: unknown setting 'epoch'; did you mean 'epochs'? known are "),
        ("train --config dash.toml", "error: dash.toml: unknown setting 'vth-bound'; did you mean 'vth_bound'? "),
        ("train --config section.toml", "error: section.toml: unknown section 'lf'; did you mean 'lif'? known are if, lif, relu"),
        ("train --config keyinside.toml", "error: keyinside.toml, section [lif]: unknown setting 'delta'; did you mean 'delta_t'? "),
        ("train --config neuron.toml", "error: neuron.toml: neuron: unknown name 'fi'; did you mean 'if'? known are if, lif, relu"),
        ("train --config schedule.toml", "error: schedule.toml: schedule: unknown name 'cosinus'; did you mean 'cosine'? "),
        // What a name has of ends of lines and of quotes stays in it.
        (
            "train --config break.toml",
            "error: break.toml: unknown setting 'epo\\nchs'; did you mean 'epochs'? known are dataset, data_dir, ",
        ),
        ("train --config quote.toml", "error: quote.toml: unknown setting 'a`b'; known are dataset, data_dir, "),
        ("train --config quotes.toml", "error: quotes.toml: unknown setting '`, expected one of `a'; known are dataset, data_dir, "),
        (
            "train --config quoteinside.toml",
            "error: quoteinside.toml, section [lif]: unknown setting 'a`, expected `b'; known are dataset, ",
        ),
        (
            "train --config breakvalue.toml",
            "error: breakvalue.toml: neuron: unknown name 'i\\nf'; did you mean 'if'? known are if, lif, relu",
        ),
        ("train --config quotevalue.toml", "error: quotevalue.toml: schedule: unknown name 'cosine`, expected `x'; known are "),
        ("train --config kind.toml", "error: kind.toml: lr: invalid type: string \"a\\nin `b`\", expected f64\n"),
        ("train --config set.toml", "error: dataset: unknown data set 'digit-8x8'; did you mean 'digits-8x8'? "),
    ];
    for (line, start) in cases {
        let output = dsr(folder.path(), line);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && stderr.starts_with(start) && stderr.lines().count() == 1, "dsr {line}: {stderr}");
    }
    // Names as they are, in any case where flags take any.
    ok(folder.path(), "train -d fashion-mnist --neuron LIF --dry-run");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), files.len(), "nothing was begun");
}

/// Aliases with underscores are for other programs' command lines, and no flag of another command is the name of a file.
#[test]
fn a_tip_is_a_flag_of_help() {
    let folder = tempdir().unwrap();
    let cases = [
        ("train --dry-run --batchsize 8", "tip: a similar argument exists: '--batch-size'"),
        ("train --dry-run --checkpoint r", "tip: a similar argument exists: '--checkpoint-every'"),
        ("classify a.png --weight-bits 8", "error: unexpected argument '--weight-bits' found"),
    ];
    for (line, tip) in cases {
        let output = dsr(folder.path(), line);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && stderr.contains(tip) && !stderr.contains("as a value"), "dsr {line}: {stderr}");
    }
}
