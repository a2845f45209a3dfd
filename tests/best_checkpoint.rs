//! The best checkpoint of a run that goes on: gone, damaged, of another run, or of an epoch that does not come. The real binary.

#[path = "support/command.rs"]
mod command;

use std::fs;

use command::{dsr, ok};
use serde_json::Value;
use tempfile::tempdir;

const TINY: &str = "train -d digits-8x8 --widths 4,8 --blocks 1,1 -T 2";

/// The best checkpoint of a run is gone, cut off, or has another byte: it is said, whether anything is left to do or not.
#[test]
fn a_best_checkpoint_that_cannot_be_read_is_noticed() {
    let folder = tempdir().unwrap();
    let at = folder.path();
    ok(at, &format!("{TINY} --epochs 1 --seed 5 --out run -q"));
    let best = at.join("run/best.safetensors");
    let whole = fs::read(&best).unwrap();
    let mut other = whole.clone();
    *other.last_mut().unwrap() ^= 1;
    let damages: [(&str, Option<&[u8]>); 3] = [("missing", None), ("damaged", Some(&whole[..whole.len() / 2])), ("damaged", Some(&other))];
    let break_it = |bytes: Option<&[u8]>| match bytes {
        Some(bytes) => fs::write(&best, bytes).unwrap(),
        None => fs::remove_file(&best).unwrap(),
    };
    for (word, bytes) in damages {
        break_it(bytes);
        let (_, stderr) = ok(at, "train --resume auto --out run");
        let words = format!("note: run/best.safetensors is {word}, and is made anew: the last epoch is the best\n");
        assert!(stderr.contains(&words) && fs::read(&best).unwrap() == whole, "{stderr}");
        ok(at, "eval --checkpoint run");
    }
    // On until an epoch is no better than the best before it.
    let mut whole = whole;
    let is_behind = (2..40).any(|epochs| {
        ok(at, &format!("train --resume auto --out run --epochs {epochs} -q"));
        let before = std::mem::replace(&mut whole, fs::read(&best).unwrap());
        before == whole
    });
    assert!(is_behind, "every epoch was better than all before it");
    let mut other = whole.clone();
    *other.last_mut().unwrap() ^= 1;
    let damages: [(&str, Option<&[u8]>); 3] = [("missing", None), ("damaged", Some(&whole[..whole.len() / 2])), ("damaged", Some(&other))];
    for (word, bytes) in damages {
        break_it(bytes);
        let (_, stderr) = ok(at, "train --resume auto --out run");
        let start = format!("note: run/best.safetensors is {word}, and comes back when an epoch is better than ");
        assert!(stderr.contains(&start) && stderr.contains(" %; until then name run/last.safetensors\n"), "{stderr}");
        fs::write(&best, &whole).unwrap();
    }
    let (_, stderr) = ok(at, "train --resume auto --out run");
    assert!(!stderr.contains("best.safetensors"), "{stderr}");
}

/// A whole checkpoint in the place of the best one is that only if it is of this run.
#[test]
fn a_best_checkpoint_of_another_run_is_noticed() {
    let folder = tempdir().unwrap();
    let at = folder.path();
    ok(at, &format!("{TINY} --epochs 2 --seed 5 --out run"));
    ok(at, &format!("{TINY} --epochs 2 --seed 6 --out seed -q"));
    ok(at, &format!("{TINY} --epochs 2 --seed 5 --lr 0.01 --out rate -q"));
    ok(at, "train -d digits-8x8 --widths 4 --blocks 1 -T 2 --epochs 2 --seed 5 --out network -q");
    let best = at.join("run/best.safetensors");
    let own = fs::read(&best).unwrap();
    for other in ["seed", "rate", "network"] {
        fs::copy(at.join(other).join("best.safetensors"), &best).unwrap();
        let (_, stderr) = ok(at, "train --resume auto --out run");
        let is_said = stderr.contains("note: run/best.safetensors is of another run, and ");
        let is_anew = stderr.contains("is made anew: the last epoch is the best");
        assert!(is_said && (!is_anew || fs::read(&best).unwrap() == own), "{other}: {stderr}");
        // In a new folder that is no best checkpoint either.
        let (_, stderr) = ok(at, &format!("train --resume run/last.safetensors --out of-{other}"));
        assert!(is_anew || stderr.contains("is missing, and "), "{other}: {stderr}");
    }
    fs::write(&best, &own).unwrap();
    let (_, stderr) = ok(at, "train --resume auto --out run");
    assert!(!stderr.contains("best.safetensors"), "{stderr}");
}

/// Killed between the two checkpoints of an epoch, the best one is ahead of the newest. It is the run's if that epoch comes again, and with
/// other settings it does not.
#[test]
fn a_best_checkpoint_of_an_epoch_that_does_not_come_is_noticed() {
    let folder = tempdir().unwrap();
    let at = folder.path();
    let copied = |from: &str, to: &str| {
        fs::create_dir_all(at.join(to).parent().unwrap()).unwrap();
        fs::copy(at.join(from), at.join(to)).unwrap();
    };
    ok(at, &format!("{TINY} --epochs 1 --seed 5 --out first -q"));
    ok(at, "train --resume first/last.safetensors --epochs 2 --out second -q");
    let best_of = |run: &str| fs::read(at.join(run).join("best.safetensors")).unwrap();
    let (first, second) = (best_of("first"), best_of("second"));
    assert!(first != second, "the second epoch is no better than the first");
    let accuracy = |run: &str, key: &str| {
        let line =
            if key == "top1" { format!("eval --checkpoint {run} -o json") } else { format!("train --resume auto --out {run} -o json") };
        let result: Value = serde_json::from_str(ok(at, &line).0.trim()).unwrap();
        if key == "top1" { result["results"][0][key].clone() } else { result[key].clone() }
    };
    let of_first = accuracy("first", "best_accuracy");
    let note = |run: &str| format!("note: {run}/best.safetensors is of an epoch that other settings would bring, and ");
    for (run, flags, comes) in [
        ("same", "--epochs 2", true),
        ("moved", "--epochs 2 --threads 1 --cache-dir elsewhere", true),
        ("rate", "--epochs 2 --lr 6", false),
        ("longer", "--epochs 3 --lr 6", false),
        ("done", "", false),
    ] {
        copied("first/last.safetensors", &format!("{run}/last.safetensors"));
        copied("second/best.safetensors", &format!("{run}/best.safetensors"));
        let (_, stderr) = ok(at, &format!("train --resume auto --out {run} {flags}"));
        if comes {
            assert!(!stderr.contains("best.safetensors") && best_of(run) == second, "{run}: {stderr}");
            continue;
        }
        assert!(stderr.contains(&format!("{}is made anew: the last epoch is the best\n", note(run))), "{run}: {stderr}");
        assert_eq!(accuracy(run, "best_accuracy"), of_first, "{run}: {stderr}");
        assert_eq!(accuracy(run, "top1"), of_first, "{run}: {stderr}");
    }
    // Into another folder it does not go along.
    copied("second/best.safetensors", "first/best.safetensors");
    let (_, stderr) = ok(at, "train --resume first/last.safetensors --epochs 2 --lr 6 --out other");
    assert!(stderr.contains("note: other/best.safetensors is missing, and is made anew: "), "{stderr}");
    assert_eq!(accuracy("other", "top1"), of_first);
    // In the first epoch there is none to make.
    for (run, flags, comes) in [("begun", "", true), ("other-begun", "--lr 6", false)] {
        let stopped = dsr(at, &format!("{TINY} --epochs 1 --seed 5 --out {run} --stop-after-steps 9 -q"));
        assert_eq!(stopped.status.code(), Some(1));
        fs::write(at.join(run).join("best.safetensors"), &first).unwrap();
        let (_, stderr) = ok(at, &format!("train --resume auto --out {run} {flags}"));
        let words = format!("{}comes back with the first epoch; until then name {run}/last.safetensors\n", note(run));
        assert_eq!(stderr.contains(&words), !comes, "{run}: {stderr}");
        assert_eq!(best_of(run) == first, comes, "{run}: {stderr}");
        assert_eq!(accuracy(run, "top1"), accuracy(run, "best_accuracy"));
    }
}
