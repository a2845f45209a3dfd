//! Who listens to a training may end it with an error, which comes back as it is; the run can go on from there.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use dsr::settings::recipes;
use dsr::training::plan::{Asked, Out, plan};
use dsr::training::run_folder::{Access, RunFolder};
use dsr::training::{self, End, Hooks, Origin, Run, choice};
use dsr::{Config, Device, Error, checkpoint, data};
use tempfile::tempdir;

const ACCESS: Access = Access { break_lock: false, note: |_| () };

fn config() -> Config {
    let text = "dataset = \"digits-8x8\"\nwidths = [4]\nblocks = [1]\ntime_steps = 2\nepochs = 1\nbatch = 128\n";
    choice::fresh(None, vec![recipes::parse(text, "test").unwrap()]).unwrap()
}

fn start(origin: Origin) -> Run {
    let dataset = Arc::new(data::load("digits-8x8", None).unwrap());
    training::start(config(), dataset, &Device::Cpu, origin).unwrap()
}

/// Trains until the end, or until a listener says no.
fn train(run: &mut Run, folder: &mut RunFolder, is_heard: impl Fn(&str, usize) -> bool) -> dsr::Result<End> {
    let said = |what: &str, at: usize| {
        if is_heard(what, at) { Ok(()) } else { Err(Error::config("listener", format!("no more after {what} {at}"))) }
    };
    let hooks = Hooks {
        stop: &AtomicBool::new(false),
        stop_after: None,
        checkpoint_every: None,
        step: &mut |run| said("step", run.progress.step),
        measured: &mut |_, _, [done, _]| said("test sample", done),
        epoch: &mut |metrics, _| said("epoch", metrics.epoch),
    };
    training::train(run, folder, hooks)
}

#[test]
fn an_error_of_a_listener_ends_the_run_with_a_checkpoint() {
    let folder = tempdir().unwrap();
    let whole = folder.path().join("whole");
    let mut run = start(Origin::Seed);
    let mut own = RunFolder::create(&whole, &ACCESS).unwrap();
    training::begin(&mut run, &own).unwrap();
    assert_eq!(train(&mut run, &mut own, |_, _| true).unwrap(), End::Done);
    let bytes = |path: &Path| std::fs::read(path.join("last.safetensors")).unwrap();
    for (what, at) in [("step", 3), ("test sample", 128), ("epoch", 1)] {
        let path = folder.path().join(what);
        {
            let mut run = start(Origin::Seed);
            let mut own = RunFolder::create(&path, &ACCESS).unwrap();
            training::begin(&mut run, &own).unwrap();
            let error = train(&mut run, &mut own, |said, number| (said, number) != (what, at)).unwrap_err();
            assert_eq!(error.to_string(), format!("listener: no more after {what} {at}"));
        }
        let last = path.join("last.safetensors");
        assert_eq!(
            checkpoint::progress(&last).unwrap().step,
            if what == "step" { 3 } else { run.dataset.train.len().div_ceil(128) * usize::from(what != "epoch") }
        );
        let asked = Asked { resume: Some("auto".into()), out: Some(path.clone()), ..Asked::default() };
        let planned = plan(&asked).unwrap();
        assert!(matches!(&planned.out, Out::Same(same) if *same == path) && planned.resume == Some(last.clone()));
        let mut own = RunFolder::resume(&path, &ACCESS).unwrap();
        let mut again = start(Origin::Checkpoint);
        training::resume(&mut again, &mut own, &last).unwrap();
        assert_eq!(train(&mut again, &mut own, |_, _| true).unwrap(), End::Done);
        assert!(bytes(&path) == bytes(&whole), "{what}");
    }
}

#[test]
fn what_is_not_there_is_an_error_of_its_own_kind() {
    let folder = tempdir().unwrap();
    let absent = folder.path().join("absent.safetensors");
    let is_missing = |error: Error| error.is_missing() && matches!(error, Error::Missing { .. });
    assert!(checkpoint::open(&absent).is_err_and(is_missing));
    assert!(RunFolder::resume(&absent, &ACCESS).is_err_and(is_missing));
    assert!(plan(&Asked { init_from: Some(absent.clone()), ..Asked::default() }).is_err_and(is_missing));
    std::fs::write(&absent, "no checkpoint").unwrap();
    assert!(checkpoint::open(&absent).is_err_and(|error| !error.is_missing()));
}

/// Whatever a set lies in: a place where there is nothing is missing, and one with something else is of the wrong kind.
#[test]
fn data_that_are_not_there_are_missing() {
    let folder = tempdir().unwrap();
    let other = folder.path().join("other.txt");
    std::fs::write(&other, "no data").unwrap();
    let sets: Vec<&str> = data::names().iter().copied().filter(|name| data::load(name, None).is_err()).collect();
    assert!(["cifar10", "mnist", "imagenet", "dvs-cifar10", "n-mnist", "images", "arrays", "events"].iter().all(|set| sets.contains(set)));
    for set in sets {
        let [absent, other] = [folder.path().join("absent"), other.clone()].map(|place| data::load(set, Some(&place)).unwrap_err());
        assert!(absent.is_missing(), "{set}: {absent}");
        assert!(!other.is_missing(), "{set}: {other}");
    }
}
