//! Batches on their way to the device: page-locked host memory and room on the device for two, used in turn, so that one is copied
//! while the step before it computes.

use std::collections::VecDeque;
use std::sync::Arc;

use super::buffers::Buffers;
use crate::data::{Dataset, Pixels};
use crate::device::{Gpu, Memory, Pinned, Slice};
use crate::error::{Error, Result};
use crate::network::Samples;
use crate::ops::augment::{DeviceDraw, augment};
use crate::ops::optimizer::cuda::StepParameters;

/// Both places for a batch.
#[derive(Debug)]
pub(super) struct Staging {
    places: [Place; 2],
    /// The one that the next batch is written to.
    next: usize,
    /// Batches that nothing has taken yet, the oldest first; at most two.
    waiting: VecDeque<Waiting>,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    place: usize,
    /// Labels that came with it, one a sample in training; none in evaluation.
    labels: usize,
    /// Values of the input; none for images on the device.
    values: Option<usize>,
}

#[derive(Debug)]
struct Place {
    input: Transfer<f32>,
    draws: Transfer<DeviceDraw>,
    labels: Transfer<u32>,
    parameters: Transfer<StepParameters>,
}

/// The same values on the host and on the device.
#[derive(Debug)]
struct Transfer<T> {
    host: Pinned<T>,
    device: Memory<T>,
}

impl<T: bytemuck::Pod> Transfer<T> {
    fn new(gpu: &Arc<Gpu>, len: usize) -> Result<Self> {
        Ok(Transfer { host: Pinned::alloc(gpu, len)?, device: gpu.zeroed(len)? })
    }

    /// Starts to copy `values`; waits only for an earlier copy from the same place.
    fn send(&mut self, gpu: &Gpu, values: impl ExactSizeIterator<Item = T>) -> Result<Slice<T>> {
        let len = values.len();
        if len > self.host.len() {
            return Err(Error::shape("a batch", format!("at most {}", self.host.len()), len));
        }
        self.host.as_mut_slice()?.iter_mut().zip(values).for_each(|(to, value)| *to = value);
        let to = self.device.slice().part(0..len);
        gpu.upload_async(&self.host, to)?;
        Ok(to)
    }
}

impl Staging {
    /// For batches of up to `batch` samples, of `values` values in all.
    pub fn new(gpu: &Arc<Gpu>, batch: usize, values: usize) -> Result<Self> {
        let place = || {
            Ok(Place {
                input: Transfer::new(gpu, values)?,
                draws: Transfer::new(gpu, batch)?,
                labels: Transfer::new(gpu, batch)?,
                parameters: Transfer::new(gpu, 1)?,
            })
        };
        Ok(Staging { places: [place()?, place()?], next: 0, waiting: VecDeque::new() })
    }

    /// Starts to copy a batch. The place it goes to was last read by work whose result is known; a batch that still waits there is
    /// forgotten.
    pub fn send(&mut self, gpu: &Gpu, samples: &Samples, labels: &[u32]) -> Result<()> {
        let at = self.next;
        let place = &mut self.places[at];
        let values = match samples {
            Samples::Real(input) => {
                place.input.send(gpu, input.data.iter().copied())?;
                Some(input.data.len())
            }
            Samples::Images(draws) => {
                let draws = draws.iter().map(|&(image, draw)| DeviceDraw::new(image as usize, draw));
                place.draws.send(gpu, draws)?;
                None
            }
        };
        place.labels.send(gpu, labels.iter().copied())?;
        self.next = 1 - at;
        self.waiting.retain(|waiting| waiting.place != at);
        self.waiting.push_back(Waiting { place: at, labels: labels.len(), values });
        Ok(())
    }

    /// Starts to copy this batch, unless it is the one that has waited longest; what waits is forgotten otherwise.
    pub fn ensure(&mut self, gpu: &Gpu, samples: &Samples, labels: &[u32]) -> Result<()> {
        if self.holds(samples, labels) {
            return Ok(());
        }
        self.waiting.clear();
        self.send(gpu, samples, labels)
    }

    /// Whether the batch that has waited longest is this one.
    fn holds(&self, samples: &Samples, labels: &[u32]) -> bool {
        let Some(waiting) = self.waiting.front() else { return false };
        let place = &self.places[waiting.place];
        let same_samples = match (samples, waiting.values) {
            (Samples::Real(input), Some(len)) => place.input.host.as_slice()[..len] == *input.data,
            (Samples::Images(draws), None) => {
                let sent = place.draws.host.as_slice().iter().take(waiting.labels);
                sent.copied().eq(draws.iter().map(|&(image, draw)| DeviceDraw::new(image as usize, draw)))
            }
            _ => false,
        };
        same_samples && place.labels.host.as_slice()[..waiting.labels] == *labels
    }

    /// Puts the batch that waits where the step reads it, with this step's parameters.
    pub fn deliver(&mut self, gpu: &Gpu, buffers: &Buffers, images: Option<&DeviceImages>, parameters: StepParameters) -> Result<()> {
        let Some(Waiting { place, labels, values }) = self.waiting.pop_front() else { return Ok(()) };
        let place = &mut self.places[place];
        let parameters = place.parameters.send(gpu, std::iter::once(parameters))?;
        gpu.after_copies()?;
        gpu.copy(parameters, buffers.parameters)?;
        gpu.copy(place.labels.device.slice().part(0..labels), buffers.labels.part(0..labels))?;
        match (values, images) {
            (Some(len), _) => gpu.copy(place.input.device.slice().part(0..len), buffers.input.part(0..len)),
            (None, Some(images)) => images.draw(gpu, buffers.input, place.draws.device.slice(), labels),
            (None, None) => Err(Error::shape("train_step", "images on the device (Network::hold_images)", "none")),
        }
    }
}

/// The training images of a data set in the memory of a device.
#[derive(Debug)]
pub(super) struct DeviceImages {
    /// `[N][H][W][C]`.
    bytes: Memory<u8>,
    /// `[C][256]`.
    table: Memory<f32>,
    shape: [usize; 3],
    crop_pad: usize,
}

impl DeviceImages {
    pub fn new(gpu: &Arc<Gpu>, dataset: &Dataset, crop_pad: usize) -> Result<Self> {
        let bytes = gpu.memory_of(&dataset.train.images.pixels)?;
        let table = gpu.memory_of(&Pixels::of(dataset).table())?;
        Ok(DeviceImages { bytes, table, shape: dataset.shape, crop_pad })
    }

    /// Crops, mirrors and normalises a batch, `[B][1][H][W][C]`.
    fn draw(&self, gpu: &Gpu, out: Slice<f32>, draws: Slice<DeviceDraw>, batch: usize) -> Result<()> {
        augment(gpu, out, self.bytes.slice(), draws, self.table.slice(), self.shape, batch, self.crop_pad)
    }
}
