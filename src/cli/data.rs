//! `dsr data`: looks at a data set before it is trained on, and makes it ready.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::bail;
use clap::{Args, Subcommand};
use serde::Serialize;

use crate::atomic_file;
use crate::data::{self, Dataset, Part, PublishedFile, SplitSummary, Stream, Summary, Told};
use crate::settings::Config;
use crate::spelling::one_line;

use super::numbers::count;
use super::outputs::Written;
use super::records::Records;
use super::settings::{self, ReadingFlags};
use super::{Global, Output, Unused, complain, dataset, outputs, use_threads};

/// Images of each class on a sheet.
const MAX_PER_CLASS: usize = 10_000;

/// Looks at a data set: its numbers, whether it is complete, a picture of it; makes it ready for training.
#[derive(Args, Clone, Debug)]
pub struct DataArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Prints sizes, images of each class, mean and standard deviation, checksums.
    Info(Which),
    /// Checks counts and checksums, and reads every file; exit code 1 if it is not the published set, or a file cannot be read. Says which
    /// files are not as published.
    Verify(Which),
    /// Writes a contact sheet (PNG): a row a class, with the first images of each.
    Sheet {
        #[command(flatten)]
        which: Which,
        /// Training or test images.
        #[arg(long, value_enum, default_value_t = Part::Train)]
        split: Part,
        /// Images of each class.
        #[arg(long, value_name = "N", default_value = "10", value_parser = count::<MAX_PER_CLASS>)]
        per_class: usize,
        /// File to write [default: NAME-train.png or NAME-test.png].
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Makes what saves training time: the frames of recordings; the pictures of images, decoded and resized; the list of unreadable files
    /// with --skip-unreadable.
    Convert(Which),
}

#[derive(Args, Clone, Debug, Serialize)]
struct Which {
    /// Name of the data set [default: that of --config, or fashion-mnist-3k].
    #[arg(short, long, value_name = "NAME")]
    dataset: Option<String>,
    /// Where its files are: a folder or, for CIFAR, the archive, or a file of arrays, or a list of pictures; not for the sets that are
    /// built in.
    #[arg(long, value_name = "PATH", value_parser = settings::text_path())]
    data_dir: Option<PathBuf>,
    /// Frames of a recording.
    #[arg(short = 'T', long, value_name = "N", visible_alias = "timesteps", alias = "time_steps")]
    time_steps: Option<usize>,
    #[command(flatten)]
    #[serde(flatten)]
    reading: ReadingFlags,
}

/// Runs `dsr data`. What to look at comes from `--config` and from flags, which win.
///
/// # Errors
/// Whatever the data set cannot be read for, or, for `verify`, where it differs from the published one.
pub fn run(global: &Global, args: &DataArgs) -> anyhow::Result<()> {
    global.refuse("data", &[Unused::Device])?;
    let (Command::Info(which) | Command::Verify(which) | Command::Sheet { which, .. } | Command::Convert(which)) = &args.command;
    let mut flags = settings::table(which)?;
    if flags.contains_key("crop_scale") {
        flags.insert("crop_pad".into(), 0.into()); // training has a choice between the two, and here neither matters
    }
    let config = settings::fresh(None, settings::layers(global, flags.clone())?)?;
    settings::refuse_foreign(&flags, &config)?;
    if !data::is_own(&config.dataset) {
        global.refuse("data", &[Unused::Seed])?; // only these are divided by lot
    }
    if config.threads > 0 {
        use_threads(config.threads)?;
    }
    global.tell_settings(&config)?;
    let output = global.output;
    match &args.command {
        Command::Info(_) => {
            // Of pictures and arrays of the user's own, mean and deviation are asked for, which only their files say.
            let of_own = data::is_own(&config.dataset) && !data::has_recordings(&config.dataset);
            let dataset = if of_own { dataset::ready(global, &config)? } else { dataset::told(global, &config)? };
            let summary = data::summarize(&dataset);
            match output {
                Output::Json => print(&serde_json::to_string(&summary)?),
                Output::Text => print_lines(&text(&dataset, &summary)),
                Output::Csv | Output::Md => print(&classes(&summary).shown(output)?),
            }
        }
        Command::Verify(_) => {
            let dataset = dataset::open(&config)?;
            verify(global, &dataset, &data::published_files(&config.dataset, config.data_dir.as_deref())?)
        }
        Command::Sheet { split, per_class, out, .. } => {
            let dataset = dataset::told(global, &config)?;
            let part = if *split == Part::Train { "train" } else { "test" };
            let png = data::contact_sheet(&dataset, *split, *per_class)?;
            let usual = format!("{}-{part}.png", dataset.name);
            let path = out.clone().unwrap_or_else(|| PathBuf::from(&usual));
            Written { flag: "out", ending: "png", begins: b"\x89PNG\r\n\x1a\n" }.check(&path)?;
            let samples = dataset.stream.iter().flat_map(|stream| {
                let of = |part: Part| (0..dataset.split(part).labels.len()).map(move |index| stream.path(part, index));
                of(Part::Train).chain(of(Part::Test))
            });
            outputs::check_data("out", &path, config.data_dir.as_deref(), &usual, samples)?;
            atomic_file::write_result(&path, &png)?;
            let shown = path.display().to_string();
            let reading = match &dataset.stream {
                Some(Stream::Events(events)) => format!(" ({})", events.reading),
                Some(Stream::Recordings(recordings)) => format!(" ({recordings})"),
                _ => String::new(),
            };
            print_object(output, &serde_json::json!({ "sheet": shown }), &format!("wrote {}{reading}", one_line(&shown)))
        }
        Command::Convert(_) => convert(global, &config),
    }
}

fn verify(global: &Global, dataset: &Dataset, files: &[PublishedFile]) -> anyhow::Result<()> {
    let others = files.iter().filter(|file| !file.is_same() && !global.quiet);
    others.for_each(|PublishedFile { file, md5, published }| {
        complain(&format!("note: {file}: not the published file (md5 {md5}, published {published}): packed anew, or changed"));
    });
    let summary = Summary { dataset: dataset.label(), ..data::summarize(dataset) };
    let problems = data::problems(&Summary { dataset: dataset.name.clone(), ..summary.clone() })?;
    let (files_bad, unreadable): (usize, Vec<String>) = match &dataset.stream {
        Some(stream) => {
            let look = |tell: data::Listener| {
                stream.notes().iter().try_for_each(|note| tell(Told::Note(note)))?;
                stream.unreadable(tell)
            };
            let (places, errors): (Vec<usize>, Vec<_>) = dataset::with_progress(global, look)?.into_iter().unzip();
            let mut lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
            lines.dedup(); // what is wrong with a file is wrong with each sample in it
            (stream.files_of(&places), lines)
        }
        None => (0, Vec::new()),
    };
    let ok = problems.is_empty() && unreadable.is_empty();
    let (train, test) = (&summary.train, &summary.test);
    if global.output == Output::Json {
        print(
            &serde_json::json!({ "ok": ok, "problems": problems, "unreadable": unreadable, "files": files, "summary": summary })
                .to_string(),
        )?;
    } else if global.output != Output::Text {
        let checksum = |split: &SplitSummary| split.crc32c.map(|crc32c| format!("{crc32c:08x}"));
        let row = serde_json::json!({
            "dataset": summary.dataset,
            "ok": ok,
            "problems": problems.join("; "),
            "unreadable": unreadable.join("; "),
            "train": train.images,
            "test": test.images,
            "train_crc32c": checksum(train),
            "test_crc32c": checksum(test),
            "files": files.len(),
            "files_as_published": files.iter().filter(|file| file.is_same()).count(),
        });
        print(&Records::of_objects(&[row]).shown(global.output)?)?;
    } else if ok {
        let checked = match (train.crc32c, test.crc32c) {
            (Some(train), Some(test)) => format!("crc32c {train:08x} {test:08x}"),
            _ => "every file was read".into(),
        };
        let as_published = match (files.len(), files.iter().filter(|file| file.is_same()).count()) {
            (0, _) => String::new(),
            (1, 1) => "\nits file is as published (md5)".into(),
            (all, same) if all == same => format!("\nits {all} files are as published (md5)"),
            (all, same) => format!("\n{same} of {all} files as published (md5)"),
        };
        print_lines(&format!("{}: ok, {} + {} images, {checked}{as_published}\n", summary.dataset, train.images, test.images))?;
    } else {
        unreadable.iter().try_for_each(|line| print(&format!("{line}\n")))?;
    }
    if !ok {
        let files = (!unreadable.is_empty()).then(|| format!("{files_bad} files cannot be read"));
        let all: Vec<String> = problems.into_iter().chain(files).collect();
        if dataset.own.is_some() {
            bail!("{}: {}; get them again, or leave them out by --skip-unreadable N", summary.dataset, all.join("; "));
        }
        bail!("{}: not the published set: {}; get its files again", summary.dataset, all.join("; "));
    }
    Ok(())
}

fn convert(global: &Global, config: &Config) -> anyhow::Result<()> {
    let dataset = dataset::converted(global, config)?;
    let made = match (&dataset.stream, &dataset.own) {
        (Some(Stream::Events(events)), _) => events.cached_at(),
        (Some(Stream::Recordings(recordings)), _) => recordings.cached_at(),
        (_, Some(own)) => own.squares.as_deref(),
        _ => None,
    };
    let object = serde_json::json!({
        "dataset": dataset.name,
        "frames": made,
        "bytes": made.map(|path| path.metadata().map(|found| found.len())).transpose()?,
        "train": dataset.train.len(),
        "test": dataset.test.len(),
    });
    let (name, train, test) = (dataset.label(), dataset.train.len(), dataset.test.len());
    let text = match made {
        Some(path) if dataset.has_bytes() => {
            let megabytes = path.metadata()?.len() as f64 / 1e6;
            let [height, width, channels] = dataset.shape;
            let of = format!("{train} + {test} pictures, decoded to {height}x{width}x{channels}");
            format!("{name}: {of}: {} ({megabytes:.1} MB)\n", one_line(path.display()))
        }
        Some(path) => {
            let megabytes = path.metadata()?.len() as f64 / 1e6;
            let [height, width, _] = dataset.shape;
            let frames = format!("{} frames of {height}x{width}", dataset.frames);
            format!("{name}: {train} + {test} recordings, each as {frames}: {} ({megabytes:.1} MB)\n", one_line(path.display()))
        }
        None if dataset.stream.is_some() => format!("{name}: {train} + {test} images; they are decoded while training\n"),
        None => format!("{name}: {train} + {test} images; there is nothing to convert\n"),
    };
    print_object(global.output, &object, &text)
}

/// A row a class, with what the text says of the set and its splits in every row.
fn classes(summary: &Summary) -> Records {
    let heads = ["label", "class", "train", "test", "dataset", "shape", "frames", "max_value", "mean", "std"];
    let of_splits = ["train_images", "test_images", "train_mean", "test_mean", "train_std", "test_std", "train_crc32c", "test_crc32c"];
    let mut records = Records::new(heads.iter().chain(&of_splits));
    let list = |values: &[f64]| values.iter().map(f64::to_string).collect::<Vec<_>>().join(" ");
    let widen = |values: &[f32]| values.iter().map(f32::to_string).collect::<Vec<_>>().join(" ");
    let checksum = |split: &SplitSummary| split.crc32c.map_or(String::new(), |crc32c| format!("{crc32c:08x}"));
    let Summary { dataset, shape, frames, max_value, mean, std, classes, train, test } = summary;
    let tail = [
        dataset.clone(),
        shape.map(|n| n.to_string()).join("x"),
        frames.to_string(),
        max_value.to_string(),
        widen(mean),
        widen(std),
        train.images.to_string(),
        test.images.to_string(),
        list(&train.mean),
        list(&test.mean),
        list(&train.std),
        list(&test.std),
        checksum(train),
        checksum(test),
    ];
    for (label, class) in classes.iter().enumerate() {
        let head = [label.to_string(), class.clone(), train.per_class[label].to_string(), test.per_class[label].to_string()];
        records.push(head.into_iter().chain(tail.clone()).collect());
    }
    records
}

/// A result that is one line of text.
fn print_object(output: Output, object: &serde_json::Value, text: &str) -> anyhow::Result<()> {
    match output {
        Output::Text => print_lines(text),
        Output::Json => print(&object.to_string()),
        Output::Csv | Output::Md => print(&Records::of_objects(std::slice::from_ref(object)).shown(output)?),
    }
}

fn text(dataset: &Dataset, summary: &Summary) -> String {
    let [height, width, channels] = summary.shape;
    let list = |values: &[f64]| values.iter().map(|v| format!("{v:.4}")).collect::<Vec<_>>().join(" ");
    let widen = |values: &[f32]| list(&values.iter().map(|&v| f64::from(v)).collect::<Vec<_>>());
    let (name, classes) = (dataset.label(), summary.classes.len());
    let mut out = match &dataset.stream {
        Some(Stream::Events(events)) => format!(
            "{name}: recordings as {} frames of {height}x{width}, darker and brighter apart, {classes} classes\n{}\n\n",
            summary.frames, events.reading
        ),
        Some(Stream::Recordings(recordings)) => format!(
            "{name}: recordings as {} frames of {height}x{width}, darker and brighter apart, {classes} classes\n{recordings}\n\n",
            summary.frames
        ),
        stream => {
            let what = if summary.frames > 1 { format!("samples of {} frames", summary.frames) } else { "images".into() };
            let values = match (stream, summary.max_value) {
                (Some(Stream::Values(_)), 1) => "floating-point numbers".to_string(),
                (Some(Stream::Values(_)), most) => format!("bytes in units of {most}"),
                (_, most) => format!("values 0..={most}"),
            };
            let s = if channels == 1 { "" } else { "s" };
            let normalised = format!("normalised by mean {}, std {}", widen(&summary.mean), widen(&summary.std));
            format!("{name}: {what} of {height}x{width}, {channels} channel{s}, {values}, {classes} classes\n{normalised}\n\n")
        }
    };
    // Writing to a String cannot fail.
    let mut row = |name: &str, split: &SplitSummary| {
        let _ = match (split.crc32c, split.range) {
            (None, Some([least, most])) => writeln!(
                out,
                "{name:<5} {:>6} samples, mean {}, std {}\n      from {least} to {most}",
                split.images,
                list(&split.mean),
                list(&split.std)
            ),
            (Some(crc32c), _) => writeln!(
                out,
                "{name:<5} {:>6} images, mean {}, std {}\n      crc32c {crc32c:08x}",
                split.images,
                list(&split.mean),
                list(&split.std)
            ),
            (None, None) => writeln!(out, "{name:<5} {:>7} files", split.images),
        };
    };
    row("train", &summary.train);
    row("test", &summary.test);
    let classes: Vec<String> = summary.classes.iter().map(one_line).collect(); // names come from files
    let name_width = classes.iter().map(|name| name.chars().count()).max().unwrap_or(0);
    let _ = writeln!(out, "\n{:>5} {:<name_width$} {:>6} {:>6}", "label", "class", "train", "test");
    for (label, name) in classes.iter().enumerate() {
        let (train, test) = (summary.train.per_class[label], summary.test.per_class[label]);
        let _ = writeln!(out, "{label:>5} {name:<name_width$} {train:>6} {test:>6}");
    }
    out
}

fn print(text: &str) -> anyhow::Result<()> {
    super::say(text.trim_end());
    Ok(())
}

/// The same for people.
fn print_lines(text: &str) -> anyhow::Result<()> {
    super::say_lines(text);
    Ok(())
}
