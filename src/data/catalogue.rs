//! The data sets by name: where each comes from, its classes, its constants.

use std::path::{Path, PathBuf};

use super::{Dataset, Events, Photos, Reading, Stream, arrays, cifar, events, idx, images, own, recordings};
use crate::error::{Error, Result};
use crate::spelling::unknown;

/// What is known about a set before it is read.
pub(super) struct Entry {
    pub name: &'static str,
    source: Source,
    /// Names of the classes; empty where only their number is known.
    classes: &'static [&'static str],
    max_value: u8,
    /// Published mean and standard deviation of R, G, B; measured on the training split where there are none.
    normalisation: Option<[[f32; 3]; 2]>,
    /// None for a set of the user's own.
    pub published: Option<Published>,
}

/// What the set is known to hold, for `dsr data verify`.
pub(super) struct Published {
    /// Height, width, channels; none for a streamed set, where they are a setting.
    pub shape: Option<[usize; 3]>,
    /// Training and test images.
    pub images: [usize; 2],
    /// Training and test images of each class.
    pub per_class: PerClass,
    /// Checksums of the training and test split, where they are part of the program.
    pub crc32c: Option<[u32; 2]>,
    /// Names and MD5 of the files as they are downloaded, where they are known.
    pub md5: &'static [(&'static str, &'static str)],
}

/// How the images of a split are divided among the classes.
pub(super) enum PerClass {
    /// Equally.
    Equal,
    /// So many of each, in training and test.
    Counts([&'static [usize]; 2]),
    /// Not written down here.
    Unknown,
}

/// Where a set comes from.
enum Source {
    /// Training images and labels, test images and labels, in the IDX format.
    BuiltInIdx([&'static [u8]; 4]),
    /// Training and test records and names of the classes, in CIFAR-10's format.
    BuiltInCifar { records: [&'static [u8]; 2], meta: &'static str },
    /// A folder of IDX files, its name in a folder of torchvision, and a place to look when none is given.
    IdxFolder { own: &'static str, usual: Option<&'static str>, hint: &'static str },
    /// A folder or an archive of CIFAR records.
    Cifar(&'static cifar::Layout),
    /// A folder of recordings for each class.
    Events,
    /// Folders of photos for each class, in a folder for each split.
    Photos,
    /// Pictures of the user's own.
    Images,
    /// Arrays of the user's own.
    Arrays,
    /// Recordings of any event camera, of the user's own or a published set.
    Recordings,
}

const FASHION: &[&str] = &["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"];
const DIGITS: &[&str] = &["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];

const MNIST_TRAIN: [usize; 10] = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949];
const MNIST_TEST: [usize; 10] = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009];

const FASHION_MD5: &[(&str, &str)] = &[
    ("train-images-idx3-ubyte.gz", "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
    ("train-labels-idx1-ubyte.gz", "25c81989df183df01b3e8a0aad5dffbe"),
    ("t10k-images-idx3-ubyte.gz", "bef4ecab320f06d8554ea6380940ec79"),
    ("t10k-labels-idx1-ubyte.gz", "bb300cfdad3c16e7a12a480ee83cd310"),
];
const MNIST_MD5: &[(&str, &str)] = &[
    ("train-images-idx3-ubyte.gz", "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
    ("train-labels-idx1-ubyte.gz", "d53e105ee54ea40749a09fcbcd1e9432"),
    ("t10k-images-idx3-ubyte.gz", "9fb629c4189551a2d022fa330f9573f3"),
    ("t10k-labels-idx1-ubyte.gz", "ec29112dd5afa0611ce80d1b7f02629c"),
];
const CIFAR10_MD5: &[(&str, &str)] = &[("cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530")];
const CIFAR100_MD5: &[(&str, &str)] = &[("cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8")];

static CATALOGUE: [Entry; 15] = [
    Entry {
        name: "fashion-mnist-3k",
        source: Source::BuiltInIdx([
            include_bytes!("../../data/fashion-mnist-3k/train-images-idx3-ubyte.gz"),
            include_bytes!("../../data/fashion-mnist-3k/train-labels-idx1-ubyte.gz"),
            include_bytes!("../../data/fashion-mnist-3k/t10k-images-idx3-ubyte.gz"),
            include_bytes!("../../data/fashion-mnist-3k/t10k-labels-idx1-ubyte.gz"),
        ]),
        classes: FASHION,
        max_value: 255,
        normalisation: None,
        published: Some(Published {
            shape: Some([28, 28, 1]),
            images: [2500, 500],
            per_class: PerClass::Equal,
            crc32c: Some([0xc262_2af8, 0x7d99_10a5]),
            md5: &[],
        }),
    },
    Entry {
        name: "digits-8x8",
        source: Source::BuiltInIdx([
            include_bytes!("../../data/digits-8x8/train-images-idx3-ubyte.gz"),
            include_bytes!("../../data/digits-8x8/train-labels-idx1-ubyte.gz"),
            include_bytes!("../../data/digits-8x8/t10k-images-idx3-ubyte.gz"),
            include_bytes!("../../data/digits-8x8/t10k-labels-idx1-ubyte.gz"),
        ]),
        classes: DIGITS,
        max_value: 16,
        normalisation: None,
        published: Some(Published {
            shape: Some([8, 8, 1]),
            images: [1437, 360],
            per_class: PerClass::Unknown,
            crc32c: Some([0xef2f_dd07, 0x7473_4431]),
            md5: &[],
        }),
    },
    Entry {
        name: "photo-patches-10",
        source: Source::BuiltInCifar {
            records: [
                include_bytes!("../../data/photo-patches-10/data_batch_1.bin"),
                include_bytes!("../../data/photo-patches-10/test_batch.bin"),
            ],
            meta: include_str!("../../data/photo-patches-10/batches.meta.txt"),
        },
        classes: &[],
        max_value: 255,
        normalisation: None,
        published: Some(Published {
            shape: Some([32, 32, 3]),
            images: [500, 120],
            per_class: PerClass::Equal,
            crc32c: Some([0xc2ab_2f37, 0x70c8_59c8]),
            md5: &[],
        }),
    },
    Entry {
        name: "fashion-mnist",
        source: Source::IdxFolder {
            own: "FashionMNIST",
            usual: Some("/usr/share/datasets/fashion-mnist"),
            hint: "install Debian's package dataset-fashion-mnist or download the files from \
                   https://github.com/zalandoresearch/fashion-mnist",
        },
        classes: FASHION,
        max_value: 255,
        normalisation: None,
        published: Some(Published {
            shape: Some([28, 28, 1]),
            images: [60_000, 10_000],
            per_class: PerClass::Equal,
            crc32c: None,
            md5: FASHION_MD5,
        }),
    },
    Entry {
        name: "mnist",
        source: Source::IdxFolder { own: "MNIST", usual: None, hint: "download the four IDX files of MNIST" },
        classes: DIGITS,
        max_value: 255,
        normalisation: None,
        published: Some(Published {
            shape: Some([28, 28, 1]),
            images: [60_000, 10_000],
            per_class: PerClass::Counts([&MNIST_TRAIN, &MNIST_TEST]),
            crc32c: None,
            md5: MNIST_MD5,
        }),
    },
    Entry {
        name: "cifar10",
        source: Source::Cifar(&cifar::CIFAR10),
        classes: &["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"],
        max_value: 255,
        normalisation: Some([[0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]]),
        published: Some(Published {
            shape: Some([32, 32, 3]),
            images: [50_000, 10_000],
            per_class: PerClass::Equal,
            crc32c: None,
            md5: CIFAR10_MD5,
        }),
    },
    Entry {
        name: "cifar100",
        source: Source::Cifar(&cifar::CIFAR100),
        classes: &[],
        max_value: 255,
        normalisation: Some([[0.5071, 0.4867, 0.4408], [0.2675, 0.2565, 0.2761]]),
        published: Some(Published {
            shape: Some([32, 32, 3]),
            images: [50_000, 10_000],
            per_class: PerClass::Equal,
            crc32c: None,
            md5: CIFAR100_MD5,
        }),
    },
    Entry {
        name: "dvs-cifar10",
        source: Source::Events,
        classes: &events::CLASSES,
        max_value: 255,
        normalisation: None,
        published: Some(Published { shape: None, images: [9_000, 1_000], per_class: PerClass::Equal, crc32c: None, md5: &[] }),
    },
    Entry {
        name: "imagenet",
        source: Source::Photos,
        classes: &[],
        max_value: 255,
        normalisation: Some([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]),
        published: Some(Published { shape: None, images: [1_281_167, 50_000], per_class: PerClass::Unknown, crc32c: None, md5: &[] }),
    },
    Entry { name: "images", source: Source::Images, classes: &[], max_value: 255, normalisation: None, published: None },
    Entry { name: "arrays", source: Source::Arrays, classes: &[], max_value: 255, normalisation: None, published: None },
    Entry { name: "events", source: Source::Recordings, classes: &[], max_value: 255, normalisation: None, published: None },
    Entry {
        name: "dvs-gesture",
        source: Source::Recordings,
        classes: &[],
        max_value: 255,
        normalisation: None,
        published: Some(Published { shape: None, images: [1_176, 288], per_class: PerClass::Unknown, crc32c: None, md5: &[] }),
    },
    Entry {
        name: "n-mnist",
        source: Source::Recordings,
        classes: &[],
        max_value: 255,
        normalisation: None,
        published: Some(Published {
            shape: None,
            images: [60_000, 10_000],
            per_class: PerClass::Counts([&MNIST_TRAIN, &MNIST_TEST]),
            crc32c: None,
            md5: &[],
        }),
    },
    Entry {
        name: "n-caltech101",
        source: Source::Recordings,
        classes: &[],
        max_value: 255,
        normalisation: None,
        published: Some(Published { shape: None, images: [7_886, 823], per_class: PerClass::Unknown, crc32c: None, md5: &[] }),
    },
];

static NAMES: [&str; CATALOGUE.len()] = {
    let mut names = [""; CATALOGUE.len()];
    let mut index = 0;
    while index < names.len() {
        names[index] = CATALOGUE[index].name;
        index += 1;
    }
    names
};

/// Names of the data sets that [`super::open`] knows, the default first.
pub fn names() -> &'static [&'static str] {
    &NAMES
}

/// Whether a set is the user's own: nothing is known of it but what its files say.
pub fn is_own(name: &str) -> bool {
    CATALOGUE.iter().any(|entry| entry.name == name && entry.published.is_none())
}

/// Whether a set is compiled in, and reads no folder.
pub fn is_built_in(name: &str) -> bool {
    let is_inside = |source: &Source| matches!(source, Source::BuiltInIdx(_) | Source::BuiltInCifar { .. });
    CATALOGUE.iter().any(|entry| entry.name == name && is_inside(&entry.source))
}

/// Refuses a folder for a set that reads none.
///
/// # Errors
/// [`Error::Config`] naming `data-dir`.
pub fn refuse_folder(name: &str, data_dir: Option<&Path>) -> Result<()> {
    match data_dir.filter(|_| is_built_in(name)) {
        None => Ok(()),
        Some(folder) => {
            let folder = folder.display();
            let problem = format!("{name} is built in and reads no folder: leave --data-dir {folder} out, or choose another --dataset");
            Err(Error::config("data-dir", problem))
        }
    }
}

/// Height, width and channels of the images of a published set, where no setting says them.
pub fn published_shape(name: &str) -> Option<[usize; 3]> {
    CATALOGUE.iter().find(|entry| entry.name == name)?.published.as_ref()?.shape
}

/// Whether the samples of a set are recordings of an event camera.
pub fn has_recordings(name: &str) -> bool {
    CATALOGUE.iter().any(|entry| entry.name == name && matches!(entry.source, Source::Events | Source::Recordings))
}

/// What is known about the set called `name`.
pub(super) fn find(name: &str) -> Result<&'static Entry> {
    let none = || Error::config("dataset", unknown("data set", name, names()));
    CATALOGUE.iter().find(|entry| entry.name == name).ok_or_else(none)
}

pub(super) fn open(name: &str, data_dir: Option<&Path>, reading: &Reading) -> Result<Dataset> {
    let entry = find(name)?;
    let mut dataset = entry.read(data_dir, reading)?;
    if let Some([mean, std]) = entry.normalisation {
        (dataset.mean, dataset.std) = (mean.to_vec(), std.to_vec());
    }
    if let Some(own) = &mut dataset.own
        && let Some([mean, std]) = own::given(&reading.own, dataset.shape[2], &own.place)?
    {
        (dataset.mean, dataset.std, own.is_normalised) = (mean, std, true);
    }
    Ok(dataset)
}

/// The files that [`open`] reads of a set that is downloaded as a few files; none of another. One that is missing is left out.
pub(super) fn files(name: &str, data_dir: Option<&Path>) -> Result<Vec<PathBuf>> {
    Ok(match (&find(name)?.source, data_dir) {
        (Source::IdxFolder { own, usual, .. }, _) => {
            data_dir.or(usual.map(Path::new)).map_or_else(Vec::new, |folder| idx::files(folder, own))
        }
        (Source::Cifar(layout), Some(place)) => cifar::archive(place, layout).into_iter().collect(),
        _ => Vec::new(),
    })
}

impl Entry {
    /// The set, with mean and standard deviation as measured.
    fn read(&self, data_dir: Option<&Path>, reading: &Reading) -> Result<Dataset> {
        let name = self.name;
        let classes: Vec<String> = self.classes.iter().map(ToString::to_string).collect();
        refuse_folder(name, data_dir)?;
        // Names the files of a built-in set in errors; only a damaged source tree could bring them up.
        let built_in = |file: &str| PathBuf::from(format!("{name} (built in)/{file}"));
        let from_disk = |hint: &str| {
            let missing = || Error::config("data-dir", format!("{name} is read from disk: {hint} by --data-dir"));
            data_dir.ok_or_else(missing)
        };
        let (classes, [train, test]) = match &self.source {
            Source::BuiltInIdx([train, train_labels, test, test_labels]) => {
                let split = |part: &str, images: &[u8], labels: &[u8]| {
                    let (images_path, labels_path) = (built_in(&format!("{part}-images")), built_in(&format!("{part}-labels")));
                    idx::split((&images_path, images), (&labels_path, labels), classes.len())
                };
                let splits = [split("train", train, train_labels)?, split("t10k", test, test_labels)?];
                (classes, splits)
            }
            Source::BuiltInCifar { records, meta } => {
                let classes = cifar::class_names(&built_in("batches.meta.txt"), meta, cifar::CIFAR10.classes)?;
                let split = |file: &str, bytes: &[u8]| {
                    let mut split = cifar::empty_split();
                    cifar::append_records(&built_in(file), bytes.len() as u64, bytes, &cifar::CIFAR10, &mut split)?;
                    Ok(split)
                };
                (classes, [split("data_batch_1.bin", records[0])?, split("test_batch.bin", records[1])?])
            }
            Source::IdxFolder { own, usual, hint } => {
                let folder = usual.map(Path::new).filter(|_| data_dir.is_none());
                let folder = folder.map_or_else(|| from_disk(&format!("{hint}, and name their folder")), Ok)?;
                let splits = idx::read_folder(folder, own, classes.len(), hint)?;
                (classes, splits)
            }
            Source::Cifar(layout) => {
                let place = from_disk(&format!("{}, and name it or its folder", layout.hint()))?;
                let (found, splits) = cifar::read(place, layout)?;
                (found.unwrap_or(if classes.is_empty() { numbered(layout.classes) } else { classes }), splits)
            }
            Source::Events => {
                let events = Events::list(from_disk("see docs/data.md, and name its folder")?, reading.events)?;
                return Ok(Dataset::streamed(name, classes, Stream::Events(events)));
            }
            Source::Photos => {
                let photos = Photos::list(from_disk("see docs/data.md, and name its folder")?, reading.photos)?;
                return Ok(Dataset::streamed(name, photos.classes().to_vec(), Stream::Photos(photos)));
            }
            Source::Images => return images::open(name, from_disk("name its folder, or a CSV file that lists it,")?, reading),
            Source::Recordings => {
                let place = from_disk("see docs/data.md, and name its folder")?;
                return recordings::open(name, self.published.is_none(), place, reading);
            }
            Source::Arrays => return arrays::open(name, from_disk("name its file or folder")?, reading),
        };
        Dataset::new(name, classes, train, test, self.max_value)
    }
}

/// Stands in for names that are not known.
fn numbered(classes: usize) -> Vec<String> {
    (0..classes).map(|class| class.to_string()).collect()
}
