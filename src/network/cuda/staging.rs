//! Batches on their way to the device: page-locked host memory and room on the device for two, used in turn, so that one is copied
//! while the step before it computes.

use std::sync::Arc;

use super::buffers::Buffers;
use crate::data::{Dataset, DeviceDraw, Pixels, augment};
use crate::device::{Gpu, Memory, Pinned, Slice};
use crate::error::{Error, Result};
use crate::network::Samples;
use crate::optimizer::cuda::StepParameters;

/// Both places for a batch.
#[derive(Debug)]
pub(super) struct Staging {
    places: [Place; 2],
    /// The one that the next batch is written to.
    next: usize,
    /// The one that holds a batch which no step has taken yet.
    waiting: Option<Waiting>,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    place: usize,
    batch: usize,
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
        Ok(Staging { places: [place()?, place()?], next: 0, waiting: None })
    }

    /// Starts to copy a batch. The place it goes to was last read by a step whose result is known.
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
        self.waiting = Some(Waiting { place: at, batch: labels.len(), values });
        Ok(())
    }

    /// Whether the batch that waits is this one.
    pub fn holds(&self, samples: &Samples, labels: &[u32]) -> bool {
        self.waiting.is_some_and(|Waiting { place, batch, values }| {
            let same_input = match (samples, values) {
                (Samples::Real(input), Some(len)) => input.data.len() == len,
                (Samples::Images(_), None) => true,
                _ => false,
            };
            same_input && self.places[place].labels.host.as_slice()[..batch] == *labels
        })
    }

    /// Puts the batch that waits where the step reads it, with this step's parameters.
    pub fn deliver(&mut self, gpu: &Gpu, buffers: &Buffers, images: Option<&DeviceImages>, parameters: StepParameters) -> Result<()> {
        let Some(Waiting { place, batch, values }) = self.waiting.take() else { return Ok(()) };
        let place = &mut self.places[place];
        let parameters = place.parameters.send(gpu, std::iter::once(parameters))?;
        gpu.after_copies()?;
        gpu.copy(parameters, buffers.parameters)?;
        gpu.copy(place.labels.device.slice().part(0..batch), buffers.labels.part(0..batch))?;
        match (values, images) {
            (Some(len), _) => gpu.copy(place.input.device.slice().part(0..len), buffers.input.part(0..len)),
            (None, Some(images)) => images.draw(gpu, buffers.input, place.draws.device.slice(), batch),
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
