//! `dsr data`, called as the command line calls it.

use clap::Parser;
use dsr::cli::Global;
use dsr::cli::data::{DataArgs, run};

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    global: Global,
    #[command(flatten)]
    data: DataArgs,
}

fn data(line: &[&str]) -> anyhow::Result<()> {
    for output in ["text", "json", "csv", "md"] {
        let args = Line::try_parse_from([&["data", "-q", "-o", output], line].concat())?;
        run(&args.global, &args.data)?;
    }
    Ok(())
}

#[test]
fn built_in_sets_can_be_looked_at_and_hold() {
    for name in ["fashion-mnist-3k", "digits-8x8", "photo-patches-10"] {
        data(&["info", "-d", name]).unwrap();
        data(&["verify", "--dataset", name]).unwrap();
    }
    data(&["verify"]).unwrap();
}

#[test]
fn an_incomplete_set_does_not_verify() {
    let folder = tempfile::tempdir().unwrap();
    for (part, n) in [("train", 2u8), ("t10k", 1)] {
        let images = [&[0, 0, 8, 3, 0, 0, 0, n, 0, 0, 0, 28, 0, 0, 0, 28], &vec![7; 784 * usize::from(n)][..]].concat();
        std::fs::write(folder.path().join(format!("{part}-images-idx3-ubyte")), images).unwrap();
        let labels = [&[0, 0, 8, 1, 0, 0, 0, n], &vec![3; usize::from(n)][..]].concat();
        std::fs::write(folder.path().join(format!("{part}-labels-idx1-ubyte")), labels).unwrap();
    }
    let place = folder.path().to_str().unwrap();
    data(&["info", "-d", "mnist", "--data-dir", place]).unwrap();
    let error = data(&["verify", "-d", "mnist", "--data-dir", place]).unwrap_err().to_string();
    assert!(error.contains("mnist: not the published set: 2 training images, published are 60000; 1 test images"), "{error}");
}

#[test]
fn another_set_under_the_name_does_not_verify() {
    use dsr::data::{load, problems, summarize};
    let mut summary = summarize(&load("fashion-mnist-3k", None).unwrap());
    (summary.train.images, summary.test.images) = (60_000, 10_000);
    let fashion = [vec![6000; 10], vec![1000; 10]];
    let mnist =
        [vec![5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949], vec![980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]];
    for (name, counts, found) in
        [("mnist", &mnist, 0), ("mnist", &fashion, 2), ("fashion-mnist", &fashion, 0), ("fashion-mnist", &mnist, 2)]
    {
        summary.dataset = name.into();
        [summary.train.per_class, summary.test.per_class] = counts.clone();
        let problems = problems(&summary).unwrap();
        assert_eq!(problems.len(), found, "{name}: {problems:?}");
        assert!(problems.iter().all(|problem| problem.contains("images of each class are")), "{problems:?}");
    }
}

#[test]
fn a_sheet_is_written_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sheet.png");
    let out = path.to_str().unwrap();
    data(&["sheet", "-d", "digits-8x8", "--split", "test", "--per-class", "4", "--out", out]).unwrap();
    assert_eq!(image::open(&path).unwrap().width(), 4 * 34 + 2);
    let before = std::fs::read(&path).unwrap();
    data(&["sheet", "-d", "digits-8x8", "--per-class", "0", "--out", out]).unwrap_err();
    assert_eq!(std::fs::read(&path).unwrap(), before);
    // A folder of that name cannot be replaced; nothing is left beside it.
    let taken = folder.path().join("taken.png");
    std::fs::create_dir(&taken).unwrap();
    let error = data(&["sheet", "-d", "digits-8x8", "--out", taken.to_str().unwrap()]).unwrap_err().to_string();
    assert!(error.contains("taken.png: "), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    let lost = folder.path().join("no/sheet.png");
    let error = data(&["sheet", "-d", "digits-8x8", "--out", lost.to_str().unwrap()]).unwrap_err().to_string();
    assert!(error.contains("no/sheet.png: cannot be written"), "{error}");
}
