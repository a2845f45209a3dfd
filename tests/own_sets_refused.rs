//! Sets of one's own whose files say two things, or something that is not meant: refused with what was found. The real binary.

use std::fs;
use std::path::Path;

use tempfile::tempdir;

#[path = "support/command.rs"]
mod command;
use command::{dsr, ok};
#[path = "support/own_sets.rs"]
mod own_sets;
use own_sets::{arrays, heap, images, npy, npz};
#[path = "support/recordings.rs"]
mod formats;
use formats::{npz_of, of_class};

/// A line that is refused with these words, on one line.
fn refused(root: &Path, line: &str, words: &str) {
    let output = dsr(root, line);
    let (code, stderr) = (output.status.code(), String::from_utf8(output.stderr).unwrap());
    let errors: Vec<&str> = stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    assert!(matches!(code, Some(1 | 2)) && errors.len() == 1 && errors[0].contains(words), "dsr {line}: {code:?} {stderr}");
}

fn whole<const N: usize>(values: &[i64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()[..N].to_vec()).collect()
}

#[test]
fn two_arrays_for_one_role_are_refused() {
    let folder = tempdir().unwrap();
    let root = folder.path();
    let info = "data info -d arrays --val-share 0.3 --data-dir";
    let ((x, y), again) = (images(24, [6, 5, 3], 0), npy("|u1", &[24, 6, 5, 3], &images(24, [6, 5, 3], 7).0));
    let (x, y) = (npy("|u1", &[24, 6, 5, 3], &x), npy("<i8", &[24], &y));
    for (keys, words) in [
        (["x", "y", "X"], "has \"X\" and \"x\""),
        (["x", "y", "images"], "has \"images\" and \"x\""),
        (["x", "y", "labels"], "has \"labels\" and \"y\""),
        (["x_train", "y_train", "train_images"], "has \"train_images\" and \"x_train\""),
    ] {
        let third = if keys[2] == "labels" { y.clone() } else { again.clone() };
        fs::write(root.join("a.npz"), npz(&[(keys[0], x.clone()), (keys[1], y.clone()), (keys[2], third)], true)).unwrap();
        refused(root, &format!("{info} a.npz"), &format!("a.npz: {words}, and one of them is wanted: give the other one another name"));
    }
    // Beside labels `classes` are their names, else they are the labels.
    let names = npy("<U3", &[3], "asholmfir".chars().flat_map(|c| u32::from(c).to_le_bytes()).collect::<Vec<u8>>().as_slice());
    fs::write(root.join("a.npz"), npz(&[("x", x.clone()), ("y", y.clone()), ("classes", names)], true)).unwrap();
    let (with_names, _) = ok(root, &format!("{info} a.npz"));
    fs::write(root.join("a.npz"), npz(&[("x", x.clone()), ("classes", y.clone())], true)).unwrap();
    assert_eq!(ok(root, &format!("{info} a.npz")).0, with_names);
    let mut with_plain = arrays();
    with_plain.extend([("x", again), ("y", y)]);
    fs::write(root.join("a.npz"), npz(&with_plain, true)).unwrap();
    let (_, stderr) = ok(root, "data info -d arrays --data-dir a.npz");
    assert!(stderr.contains("not read: x"), "{stderr}");
}

#[test]
fn two_columns_for_one_role_are_refused() {
    let folder = tempdir().unwrap();
    let root = folder.path();
    heap(root, 4);
    for (heads, words) in [
        ("path,path,label", "a column path and a column path"),
        ("path,label,class", "a column label and a column class"),
        ("Image,label,filename", "a column Image and a column filename"),
        ("path,label,split,set", "a column split and a column set"),
    ] {
        fs::write(root.join("list.csv"), format!("{heads}\nash/000.png,a,a,a\n")).unwrap();
        let line = "data info -d images --val-share 0.3 --data-dir list.csv";
        refused(root, line, &format!("list.csv: its first row names {words}, and one of them is wanted"));
    }
    fs::write(root.join("list.csv"), "path,label,start,start\na.npz,a,1,2\n").unwrap();
    refused(root, "data info -d events --sensor 8x8 --data-dir list.csv", "names a column start and a column start");
}

#[test]
fn values_of_events_and_labels_are_told_as_they_are() {
    let folder = tempdir().unwrap();
    let root = folder.path();
    let line = "data convert -d events --val-share 0.5 --sensor 8x8 -T 2 --data-dir events";
    for (class, name) in ["a", "b"].iter().enumerate() {
        fs::create_dir_all(root.join("events").join(name)).unwrap();
        for seed in 0..4 {
            fs::write(root.join(format!("events/{name}/{seed}.npz")), npz_of(&of_class(class, seed, 50, [8, 8]), true)).unwrap();
        }
    }
    let file = |t: Vec<u8>, x: &[i64], p: &[i64]| {
        let times = if t.len() == 16 { "<u8" } else { "<i2" };
        let arrays = [
            ("t", npy(times, &[2], &t)),
            ("x", npy("<i2", &[2], &whole::<2>(x))),
            ("y", npy("<i2", &[2], &whole::<2>(&[3, 3]))),
            ("p", npy("|i1", &[2], &whole::<1>(p))),
        ];
        fs::write(root.join("events/a/0.npz"), npz(&arrays, true)).unwrap();
        let _ = fs::remove_dir_all(root.join("events/.dsr-cache")); // frames of the file as it was
    };
    let times = || whole::<2>(&[5, 9]);
    for p in [[0, 1], [-1, 1]] {
        file(times(), &[1, 2], &p);
        ok(root, line);
    }
    file(times(), &[1, 2], &[1, 2]);
    refused(root, line, "events/a/0.npz/p.npy: event 1 has the polarity 2; 1 is meant for brighter, 0 or -1 for darker");
    file(times(), &[1, -98], &[0, 1]);
    refused(root, line, "events/a/0.npz: event 1 is at column -98, row 3, outside the camera's 8x8 pixels");
    file([5u64, 1 << 63].iter().flat_map(|time| time.to_le_bytes()).collect(), &[1, 2], &[0, 1]);
    refused(root, line, "t.npy: event 1 has the time 9223372036854775808, more than 9223372036854775807 microseconds");
    let labels = [0u64, 1, (1 << 63) + 3].iter().flat_map(|label| label.to_le_bytes()).collect::<Vec<u8>>();
    let set = [("x", npy("|u1", &[3, 4, 4], &[7; 48])), ("y", npy("<u8", &[3], &labels))];
    fs::write(root.join("a.npz"), npz(&set, true)).unwrap();
    refused(root, "data info -d arrays --val-share 0.3 --data-dir a.npz", "sample 2 has label 9223372036854775811; labels are 0, 1, 2");
}

#[test]
fn an_array_of_another_folder_is_named_by_its_file() {
    let folder = tempdir().unwrap();
    let root = folder.path();
    fs::write(root.join("alone.npy"), npy("|u1", &[3, 4, 4], &[7; 48])).unwrap();
    let words = "alone.npy: has no images and labels by name in its folder (it has: alone); expected are x_train and y_train";
    refused(root, "data info -d arrays --val-share 0.3 --data-dir alone.npy", words);
    // A single class is a matter of the labels, where there are no folders.
    let set = [("x", npy("|u1", &[4, 4, 4], &[7; 64])), ("y", npy("|u1", &[4], &[0; 4]))];
    fs::write(root.join("one.npz"), npz(&set, true)).unwrap();
    let (_, stderr) = ok(root, "data info -d arrays --val-share 0.5 --data-dir one.npz");
    assert!(stderr.contains("has a single class, '0', so that every prediction is right; look at its labels"), "{stderr}");
}
