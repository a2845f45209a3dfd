//! AutoAugment: one of 25 pairs of operations for each training image (Cubuk et al., arXiv:1805.09501), as `transforms.AutoAugment` of
//! torchvision 0.29 without arguments does it to PIL images.

use serde::{Deserialize, Serialize};

use super::augment::{Purpose, below, generator, uniform};
use super::operations::Operation::{self, *};
use super::operations::apply;

/// Which pairs of operations there are to choose from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum AutoAugment {
    /// None.
    #[default]
    Off,
    /// Those found on CIFAR-10.
    Cifar10,
    /// Those found on ImageNet.
    Imagenet,
}

/// An operation, the probability that it is done, and the index of its magnitude, 0..10; 0 where it has none.
pub type Step = (Operation, f64, usize);

/// Which pair, and of both operations a number in 0..1 (it is done if the number is not above its probability) and whether the
/// magnitude keeps its sign, where it has one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// Index of the pair.
    pub pair: usize,
    /// A number for each operation.
    pub luck: [f64; 2],
    /// Of each operation.
    pub is_positive: [bool; 2],
}

impl AutoAugment {
    /// As in configurations.
    pub fn name(self) -> &'static str {
        match self {
            AutoAugment::Off => "off",
            AutoAugment::Cifar10 => "cifar10",
            AutoAugment::Imagenet => "imagenet",
        }
    }

    /// Whether it is the one that files do not name.
    pub fn is_off(&self) -> bool {
        *self == AutoAugment::Off
    }

    /// All pairs.
    pub fn pairs(self) -> &'static [[Step; 2]] {
        match self {
            AutoAugment::Off => &[],
            AutoAugment::Cifar10 => &CIFAR10,
            AutoAugment::Imagenet => &IMAGENET,
        }
    }

    /// Changes image `index` of the training split, `[H][W][C]` bytes with C of 1 or 3, in place; a function of the picture, seed, epoch
    /// and index.
    pub fn augment(self, picture: &mut [u8], shape: [usize; 3], seed: u64, epoch: u64, index: u64) {
        if self.is_off() {
            return;
        }
        let mut rng = generator(seed, Purpose::AutoAugment, epoch, index);
        let pair = below(&mut rng, self.pairs().len() as u64) as usize;
        let luck = [0; 2].map(|_| uniform(&mut rng, [0.0, 1.0]));
        let is_positive = [0; 2].map(|_| below(&mut rng, 2) == 1);
        self.change(picture, shape, Choice { pair, luck, is_positive });
    }

    /// Changes a picture as was chosen.
    pub fn change(self, picture: &mut [u8], shape: [usize; 3], choice: Choice) {
        let Some(pair) = self.pairs().get(choice.pair) else { return };
        for ((&(operation, probability, index), luck), is_positive) in pair.iter().zip(choice.luck).zip(choice.is_positive) {
            if luck <= probability {
                let (magnitude, has_sign) = magnitude(operation, index, shape);
                let magnitude = if has_sign && !is_positive { -magnitude } else { magnitude };
                apply(operation, magnitude, picture, shape);
            }
        }
    }
}

/// The magnitude of an index, 0..10, for a picture of this shape, and whether its sign is chosen.
///
/// As `torch.linspace`: in `f32`, product and sum in one.
pub fn magnitude(operation: Operation, index: usize, [height, width, _]: [usize; 3]) -> (f64, bool) {
    let between = |start: f32, end: f32| {
        let step = (end - start) / 9.0;
        f64::from(if index < 5 { step.mul_add(index as f32, start) } else { (-step).mul_add((9 - index) as f32, end) })
    };
    let share_of = |side: usize| (150.0 / 331.0 * side as f64) as f32;
    match operation {
        ShearX | ShearY => (between(0.0, 0.3), true),
        TranslateX => (between(0.0, share_of(width)), true),
        TranslateY => (between(0.0, share_of(height)), true),
        Rotate => (between(0.0, 30.0), true),
        Brightness | Color | Contrast | Sharpness => (between(0.0, 0.9), true),
        Posterize => ([8.0, 8.0, 7.0, 7.0, 6.0, 6.0, 5.0, 5.0, 4.0, 4.0][index], false),
        Solarize => (between(255.0, 0.0), false),
        AutoContrast | Equalize | Invert => (0.0, false),
    }
}

const CIFAR10: [[Step; 2]; 25] = [
    [(Invert, 0.1, 0), (Contrast, 0.2, 6)],
    [(Rotate, 0.7, 2), (TranslateX, 0.3, 9)],
    [(Sharpness, 0.8, 1), (Sharpness, 0.9, 3)],
    [(ShearY, 0.5, 8), (TranslateY, 0.7, 9)],
    [(AutoContrast, 0.5, 0), (Equalize, 0.9, 0)],
    [(ShearY, 0.2, 7), (Posterize, 0.3, 7)],
    [(Color, 0.4, 3), (Brightness, 0.6, 7)],
    [(Sharpness, 0.3, 9), (Brightness, 0.7, 9)],
    [(Equalize, 0.6, 0), (Equalize, 0.5, 0)],
    [(Contrast, 0.6, 7), (Sharpness, 0.6, 5)],
    [(Color, 0.7, 7), (TranslateX, 0.5, 8)],
    [(Equalize, 0.3, 0), (AutoContrast, 0.4, 0)],
    [(TranslateY, 0.4, 3), (Sharpness, 0.2, 6)],
    [(Brightness, 0.9, 6), (Color, 0.2, 8)],
    [(Solarize, 0.5, 2), (Invert, 0.0, 0)],
    [(Equalize, 0.2, 0), (AutoContrast, 0.6, 0)],
    [(Equalize, 0.2, 0), (Equalize, 0.6, 0)],
    [(Color, 0.9, 9), (Equalize, 0.6, 0)],
    [(AutoContrast, 0.8, 0), (Solarize, 0.2, 8)],
    [(Brightness, 0.1, 3), (Color, 0.7, 0)],
    [(Solarize, 0.4, 5), (AutoContrast, 0.9, 0)],
    [(TranslateY, 0.9, 9), (TranslateY, 0.7, 9)],
    [(AutoContrast, 0.9, 0), (Solarize, 0.8, 3)],
    [(Equalize, 0.8, 0), (Invert, 0.1, 0)],
    [(TranslateY, 0.7, 9), (AutoContrast, 0.9, 0)],
];

const IMAGENET: [[Step; 2]; 25] = [
    [(Posterize, 0.4, 8), (Rotate, 0.6, 9)],
    [(Solarize, 0.6, 5), (AutoContrast, 0.6, 0)],
    [(Equalize, 0.8, 0), (Equalize, 0.6, 0)],
    [(Posterize, 0.6, 7), (Posterize, 0.6, 6)],
    [(Equalize, 0.4, 0), (Solarize, 0.2, 4)],
    [(Equalize, 0.4, 0), (Rotate, 0.8, 8)],
    [(Solarize, 0.6, 3), (Equalize, 0.6, 0)],
    [(Posterize, 0.8, 5), (Equalize, 1.0, 0)],
    [(Rotate, 0.2, 3), (Solarize, 0.6, 8)],
    [(Equalize, 0.6, 0), (Posterize, 0.4, 6)],
    [(Rotate, 0.8, 8), (Color, 0.4, 0)],
    [(Rotate, 0.4, 9), (Equalize, 0.6, 0)],
    [(Equalize, 0.0, 0), (Equalize, 0.8, 0)],
    [(Invert, 0.6, 0), (Equalize, 1.0, 0)],
    [(Color, 0.6, 4), (Contrast, 1.0, 8)],
    [(Rotate, 0.8, 8), (Color, 1.0, 2)],
    [(Color, 0.8, 8), (Solarize, 0.8, 7)],
    [(Sharpness, 0.4, 7), (Invert, 0.6, 0)],
    [(ShearX, 0.6, 5), (Equalize, 1.0, 0)],
    [(Color, 0.4, 0), (Equalize, 0.6, 0)],
    [(Equalize, 0.4, 0), (Solarize, 0.2, 4)],
    [(Solarize, 0.6, 5), (AutoContrast, 0.6, 0)],
    [(Invert, 0.6, 0), (Equalize, 1.0, 0)],
    [(Color, 0.6, 4), (Contrast, 1.0, 8)],
    [(Equalize, 0.8, 0), (Equalize, 0.6, 0)],
];
