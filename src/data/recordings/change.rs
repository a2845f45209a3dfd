//! Random changes of the frames of a training recording, all frames alike: cut out of a padded frame and mirrored, as pictures are; then
//! rolled, rotated, and with events left out. Rolling and rotating are those of Li, Kim, Park, Geller and Panda, "Neuromorphic Data
//! Augmentation for Training Spiking Neural Networks" (ECCV 2022); leaving events out is that of Gu, Sng, Hu and Yu, "EventDrop"
//! (IJCAI 2021).

use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::frames::CHANNELS;
use crate::data::Draw;
use crate::data::augment::{Purpose, below, generator};
use crate::data::camera::Sensor;

/// What is drawn for each recording and epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventChange {
    /// Rolls frames by up to so many pixels up or down, left or right; what leaves at one side comes back at the other.
    pub roll: usize,
    /// Rotates frames by up to so many degrees either way.
    pub rotate: f64,
    /// Leaves out each event with this probability.
    pub drop: f64,
}

/// Puts frames, `[T][H][W][2]`, into `out`, changed as seed, epoch and index of the recording say.
pub fn change(frames: &[f32], size: Sensor, draw: Draw, pad: usize, change: &EventChange, [seed, epoch, index]: [u64; 3], out: &mut [f32]) {
    let mut rng = generator(seed, Purpose::Events, epoch, index);
    let sources = sources(size, draw, pad, change, &mut rng);
    let length = size[0] * size[1] * CHANNELS;
    for (frame, out) in frames.chunks_exact(length).zip(out.chunks_exact_mut(length)) {
        for (values, source) in out.as_chunks_mut::<CHANNELS>().0.iter_mut().zip(&sources) {
            *values = source.map_or([0.0; CHANNELS], |source| [0, 1].map(|channel| frame[source * CHANNELS + channel]));
        }
    }
    if change.drop > 0.0 {
        leave_out(change.drop, &mut rng, out);
    }
}

/// For each pixel of a changed frame the pixel that it shows; none of the padding.
fn sources([height, width]: Sensor, draw: Draw, pad: usize, change: &EventChange, rng: &mut ChaCha8Rng) -> Vec<Option<usize>> {
    let range = 2 * change.roll as u64 + 1;
    let [down, right] = [below(rng, range), below(rng, range)].map(|steps| steps as i64 - change.roll as i64);
    // An angle of 2^24 of them, and its sine and cosine in 16 bits behind the point: the same on every machine.
    let angle = (below(rng, (1 << 24) + 1) as f64 / f64::from(1 << 23) - 1.0) * change.rotate.to_radians();
    let [sin, cos] = [angle.sin(), angle.cos()].map(|value| (value * 65536.0).round() as i64);
    let (rows, columns) = (height as i64, width as i64);
    let inside = |y: i64, x: i64| ((0..rows).contains(&y) && (0..columns).contains(&x)).then_some((y, x));
    let source = |place: usize| {
        let (y, x) = ((place / width) as i64, (place % width) as i64);
        // Twice the distance from the middle, which may lie between pixels.
        let (v, u) = (2 * y - (rows - 1), 2 * x - (columns - 1));
        let back = |sum: i64, side: i64| (sum + ((side - 1) << 16) + (1 << 16)) >> 17;
        let (y, x) = inside(back(cos * v - sin * u, rows), back(sin * v + cos * u, columns))?;
        let (y, x) = ((y - down).rem_euclid(rows), (x - right).rem_euclid(columns));
        let x = if draw.flip { columns - 1 - x } else { x };
        let (y, x) = inside(y + draw.top as i64 - pad as i64, x + draw.left as i64 - pad as i64)?;
        Some((y * columns + x) as usize)
    };
    (0..height * width).map(source).collect()
}

/// Leaves out each event with probability `share`: of a count, each of its events by itself; other values as a whole.
fn leave_out(share: f64, rng: &mut ChaCha8Rng, values: &mut [f32]) {
    const PARTS: u64 = 1 << 32;
    const MOST: f32 = 65536.0;
    let gone = (share * PARTS as f64) as u64;
    for value in values.iter_mut().filter(|value| **value != 0.0) {
        let is_count = *value > 0.0 && *value <= MOST && value.fract() == 0.0;
        let (events, each) = if is_count { (*value as usize, 1.0) } else { (1, *value) };
        *value = (0..events).filter(|_| below(rng, PARTS) >= gone).map(|_| each).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STILL: Draw = Draw { top: 0, left: 0, flip: false };

    /// Two frames of 5×7 with values 1, 2, 3, … in their channels.
    fn frames() -> Vec<f32> {
        (1..=2 * 5 * 7 * 2).map(|value| value as f32).collect()
    }

    fn changed(frames: &[f32], size: Sensor, draw: Draw, pad: usize, by: EventChange, key: [u64; 3]) -> Vec<f32> {
        let mut out = vec![-1.0; frames.len()];
        change(frames, size, draw, pad, &by, key, &mut out);
        out
    }

    #[test]
    fn without_changes_frames_are_cut_and_mirrored() {
        let frames = frames();
        assert_eq!(changed(&frames, [5, 7], STILL, 0, EventChange::default(), [1, 2, 3]), frames);
        // As those of CIFAR10-DVS, which are square.
        let square: Vec<f32> = (1..=3 * 6 * 6 * 2).map(|value| value as f32).collect();
        for draw in [Draw { top: 0, left: 3, flip: true }, Draw { top: 4, left: 1, flip: false }, Draw { top: 2, left: 2, flip: true }] {
            let mut expected = vec![0.0; square.len()];
            for (frame, out) in square.chunks_exact(72).zip(expected.chunks_exact_mut(72)) {
                draw.cut(frame, 6, 2, out);
            }
            assert_eq!(changed(&square, [6, 6], draw, 2, EventChange::default(), [1, 2, 3]), expected, "{draw:?}");
        }
    }

    #[test]
    fn rolled_frames_keep_every_event() {
        let (frames, mut seen) = (frames(), std::collections::HashSet::new());
        for index in 0..60 {
            let rolled = changed(&frames, [5, 7], STILL, 0, EventChange { roll: 1, ..EventChange::default() }, [9, 0, index]);
            // Where the first pixel went, all others are beside it, and both frames alike.
            let at = rolled.iter().position(|&value| value == 1.0).unwrap() / 2;
            let (down, right) = (at / 7, at % 7);
            for (place, pixel) in frames.chunks_exact(2).enumerate() {
                let (frame, y, x) = (place / 35, place % 35 / 7, place % 7);
                let to = (frame * 35 + (y + down) % 5 * 7 + (x + right) % 7) * 2;
                assert_eq!(&rolled[to..to + 2], pixel);
            }
            seen.insert((down, right));
        }
        assert_eq!(seen.len(), 9, "one up or down, left or right, or not: {seen:?}");
    }

    #[test]
    fn a_rotation_moves_pixels_around_the_middle() {
        let by =
            |rotate: f64, index: u64| changed(&frames(), [5, 7], STILL, 0, EventChange { rotate, ..EventChange::default() }, [5, 0, index]);
        assert_eq!(by(1.0, 0), frames(), "less than half a pixel anywhere");
        let mut turned = 0;
        for index in 0..40 {
            let rotated = by(45.0, index);
            // The middle stays; every other pixel is one of the frame, at about the same distance, or none.
            assert_eq!(rotated[2 * 17], 35.0);
            for (place, pixel) in rotated.chunks_exact(2).take(35).enumerate() {
                let from = if pixel[0] == 0.0 { continue } else { (pixel[0] as usize - 1) / 2 };
                let far = |place: usize| ((place / 7) as f64 - 2.0).hypot((place % 7) as f64 - 3.0);
                assert!((far(place) - far(from)).abs() < 0.75, "{place} from {from}");
            }
            turned += usize::from(rotated != frames());
        }
        assert!(turned > 30, "{turned}");
        let mut quarter = vec![0.0; 50];
        quarter[2 * 2] = 1.0; // row 0, column 2
        let ends: std::collections::HashSet<usize> = (0..400)
            .filter_map(|index| {
                let by = EventChange { rotate: 90.0, ..EventChange::default() };
                changed(&quarter, [5, 5], STILL, 0, by, [5, 0, index]).iter().position(|&value| value == 1.0)
            })
            .collect();
        assert!(ends.contains(&(2 * 10)) && ends.contains(&(2 * 14)), "to the left and to the right: {ends:?}");
    }

    #[test]
    fn events_are_left_out_one_by_one() {
        let frames = vec![100.0; 200];
        let by = |drop: f64, key: [u64; 3]| changed(&frames, [10, 10], STILL, 0, EventChange { drop, ..EventChange::default() }, key);
        let rest = by(0.25, [1, 2, 3]);
        assert_eq!(rest, by(0.25, [1, 2, 3]), "the same again");
        for other in [[0, 2, 3], [1, 0, 3], [1, 2, 0]] {
            assert_ne!(rest, by(0.25, other), "of another seed, epoch or recording others");
        }
        let sum: f32 = rest.iter().sum();
        assert!((14_700.0..15_300.0).contains(&sum), "three quarters of 20,000: {sum}"); // five standard deviations
        assert!(rest.iter().all(|value| value.fract() == 0.0 && (50.0..=97.0).contains(value)));
        assert_eq!(by(0.0, [1, 2, 3]), frames);
        let halves = changed(&[0.5; 200], [10, 10], STILL, 0, EventChange { drop: 0.5, ..EventChange::default() }, [1, 2, 3]);
        assert!(halves.contains(&0.5) && halves.contains(&0.0) && halves.iter().all(|value| matches!(*value, 0.0 | 0.5)));
    }
}
