//! `dsr data`: looks at a data set before it is trained on.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::{Args, Subcommand, ValueEnum};

use crate::atomic_file;
use crate::data::{self, Dataset, SplitSummary, Summary};

/// Looks at a data set: its numbers, whether it is complete, a picture of it.
#[derive(Args, Clone, Debug)]
pub struct DataArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Prints sizes, images of each class, mean and standard deviation, checksums.
    Info(Which),
    /// Checks counts and, for the sets that are built in, checksums; exit code 1 if something differs.
    Verify(Which),
    /// Writes a contact sheet (PNG): a row a class, with the first images of each.
    Sheet {
        #[command(flatten)]
        which: Which,
        /// Training or test images.
        #[arg(long, value_enum, default_value_t = Part::Train)]
        split: Part,
        /// Images of each class.
        #[arg(long, value_name = "N", default_value_t = 10)]
        per_class: usize,
        /// File to write [default: NAME-train.png or NAME-test.png].
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

#[derive(Args, Clone, Debug)]
struct Which {
    /// Name of the data set.
    #[arg(short, long, default_value = "fashion-mnist-3k", value_name = "NAME")]
    dataset: String,
    /// Where its files are: a folder or, for CIFAR, the archive; not for the sets that are built in.
    #[arg(long, value_name = "PATH")]
    data_dir: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Part {
    Train,
    Test,
}

/// Runs `dsr data`. `output_json` prints one JSON object, on one line, instead of text.
///
/// # Errors
/// Whatever the data set cannot be read for, or, for `verify`, where it differs from the published one.
pub fn run(args: &DataArgs, output_json: bool) -> anyhow::Result<()> {
    match &args.command {
        Command::Info(which) => {
            let summary = data::summarize(&which.load()?);
            print(&if output_json { json(&summary)? } else { text(&summary) })
        }
        Command::Verify(which) => verify(&which.load()?, output_json),
        Command::Sheet { which, split, per_class, out } => {
            let dataset = which.load()?;
            let (split, part) = match split {
                Part::Train => (&dataset.train, "train"),
                Part::Test => (&dataset.test, "test"),
            };
            let png = data::contact_sheet(&dataset, split, *per_class)?;
            let path = out.clone().unwrap_or_else(|| PathBuf::from(format!("{}-{part}.png", dataset.name)));
            atomic_file::write(&path, &png)?;
            let shown = path.display().to_string();
            print(&if output_json { json(&serde_json::json!({ "sheet": shown }))? } else { format!("wrote {shown}\n") })
        }
    }
}

impl Which {
    fn load(&self) -> crate::error::Result<Dataset> {
        data::load(&self.dataset, self.data_dir.as_deref())
    }
}

fn verify(dataset: &Dataset, output_json: bool) -> anyhow::Result<()> {
    let summary = data::summarize(dataset);
    let problems = data::problems(&summary)?;
    let ok = problems.is_empty();
    if output_json {
        let object = serde_json::json!({ "ok": ok, "problems": problems, "summary": summary });
        print(&json(&object)?)?;
    } else if ok {
        let (train, test) = (&summary.train, &summary.test);
        print(&format!(
            "{}: ok, {} + {} images, crc32c {:08x} {:08x}\n",
            summary.dataset, train.images, test.images, train.crc32c, test.crc32c
        ))?;
    }
    if !ok {
        bail!("{}: not the published set: {}; get its files again", summary.dataset, problems.join("; "));
    }
    Ok(())
}

fn text(summary: &Summary) -> String {
    let [height, width, channels] = summary.shape;
    let list = |values: &[f64]| values.iter().map(|v| format!("{v:.4}")).collect::<Vec<_>>().join(" ");
    let widen = |values: &[f32]| list(&values.iter().map(|&v| f64::from(v)).collect::<Vec<_>>());
    let mut out = format!(
        "{}: images of {height}x{width}, {channels} channel{}, values 0..={}, {} classes\nnormalised by mean {}, std {}\n\n",
        summary.dataset,
        if channels == 1 { "" } else { "s" },
        summary.max_value,
        summary.classes.len(),
        widen(&summary.mean),
        widen(&summary.std)
    );
    // Writing to a String cannot fail.
    let mut row = |name: &str, split: &SplitSummary| {
        let _ = writeln!(
            out,
            "{name:<5} {:>6} images, mean {}, std {}, crc32c {:08x}",
            split.images,
            list(&split.mean),
            list(&split.std),
            split.crc32c
        );
    };
    row("train", &summary.train);
    row("test", &summary.test);
    let name_width = summary.classes.iter().map(|name| name.chars().count()).max().unwrap_or(0);
    let _ = writeln!(out, "\n{:>5} {:<name_width$} {:>6} {:>6}", "label", "class", "train", "test");
    for (label, name) in summary.classes.iter().enumerate() {
        let (train, test) = (summary.train.per_class[label], summary.test.per_class[label]);
        let _ = writeln!(out, "{label:>5} {name:<name_width$} {train:>6} {test:>6}");
    }
    out
}

fn json(value: &impl serde::Serialize) -> anyhow::Result<String> {
    Ok(serde_json::to_string(value)? + "\n")
}

fn print(text: &str) -> anyhow::Result<()> {
    std::io::stdout().write_all(text.as_bytes()).context("cannot write to standard output")
}
