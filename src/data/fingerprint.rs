//! What tells one data set from another of the same name and size, where processes compare theirs.

use crate::data::{Dataset, Part, Pixels};

/// Samples of a split that are read for it: those of a streamed set lie in files, and a run should begin soon.
const LOOKED_AT: usize = 16;

impl Dataset {
    /// Number of samples of a split with a checksum: of all that lie in memory, and of a set whose samples may lie in files, of all labels
    /// and of some samples as they are tested on. Whether pictures of the user's own are in memory depends on the machine and changes no
    /// bit, so it changes nothing here either.
    pub fn fingerprint(&self, part: Part) -> String {
        let split = self.split(part);
        if self.stream.is_none() && self.name != "images" {
            return format!("{} images, CRC-32C {:08x}", split.len(), split.checksum());
        }
        let mut checksum = split.labels.iter().fold(0, |sum, label| crc32c::crc32c_append(sum, &label.to_le_bytes()));
        let (pixels, samples) = (Pixels::of(self), split.labels.len());
        let mut values = vec![0.0f32; self.sample_values()];
        for at in 0..samples.min(LOOKED_AT) {
            let index = at * samples / samples.min(LOOKED_AT); // spread over the split
            match &self.stream {
                Some(stream) => {
                    if let Err(error) = stream.fill(&pixels, part, index, None, &mut values) {
                        return format!("{samples} samples, of which one cannot be read: {error}");
                    }
                }
                None => pixels.fill(split.images.image(index), false, &mut values),
            }
            checksum = crc32c::crc32c_append(checksum, bytemuck::cast_slice(&values));
        }
        format!("{samples} samples, of which labels and some values have CRC-32C {checksum:08x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_pictures_labels_and_means_are_another_set() {
        let held = crate::data::load("digits-8x8", None).unwrap();
        for name in ["digits-8x8", "images"] {
            let held = Dataset { name: name.into(), ..held.clone() };
            let of = |change: fn(&mut Dataset)| {
                let mut other = held.clone();
                change(&mut other);
                other.fingerprint(Part::Train)
            };
            assert_eq!(of(|_| ()), held.fingerprint(Part::Train));
            let changes: [fn(&mut Dataset); 3] = [
                |set| set.train.labels[1] ^= 1,
                |set| set.train.images.pixels.iter_mut().for_each(|p| *p ^= 1),
                |set| {
                    set.train.labels.pop();
                },
            ];
            changes.into_iter().for_each(|change| assert_ne!(of(change), held.fingerprint(Part::Train), "{name}"));
        }
        let images = Dataset { name: "images".into(), ..held };
        let mut other = images.clone();
        other.mean[0] += 1e-3;
        assert_ne!(images.fingerprint(Part::Test), other.fingerprint(Part::Test));
    }
}
