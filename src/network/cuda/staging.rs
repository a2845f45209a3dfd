//! Batches on their way to the device: page-locked host memory and room on the device for two, used in turn, so that one is copied
//! while the step before it computes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::buffers::Buffers;
use crate::data::{Dataset, Hole, Pixels};
use crate::device::{Gpu, Mark, Memory, Pinned, Slice};
use crate::error::{Error, Result};
use crate::network::Samples;
use crate::ops::augment::{DeviceDraw, OnDevice, Pictures, augment, strided_bytes, strided_values};
use crate::ops::cross_entropy::Blend;
use crate::ops::optimizer::cuda::StepParameters;

/// Both places for a batch.
#[derive(Debug)]
pub(super) struct Staging {
    places: [Place; 2],
    /// The one that the next batch is written to.
    next: usize,
}

#[derive(Debug)]
struct Place {
    /// Real values, or bytes of pictures.
    input: Transfer<u8>,
    draws: Transfer<DeviceDraw>,
    holes: Transfer<Hole>,
    labels: Transfer<u32>,
    blends: Transfer<Blend>,
    parameters: Transfer<StepParameters>,
    /// Behind the last work that reads the place on the device.
    read: Mark,
    waiting: Option<Waiting>,
}

/// A batch that nothing has taken yet.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    number: u64,
    samples: Sent,
    /// Holes that came with it, one a sample or none.
    holes: usize,
    /// Other classes that came with it, one a sample or none.
    blends: usize,
    /// Labels that came with it, one a sample in training; none in evaluation.
    labels: usize,
}

/// What has been sent of the samples.
#[derive(Clone, Copy, Debug)]
enum Sent {
    /// So many bytes of real values.
    Values(usize),
    /// So many pictures of one byte a value.
    Pictures(usize),
    /// What to do with so many images on the device.
    Draws(usize),
    /// Nothing: it lies there.
    OnDevice(OnDevice),
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

    /// Starts to copy `values`; the host waits only for an earlier copy from the same place.
    fn send(&mut self, gpu: &Gpu, values: &[T]) -> Result<Slice<T>> {
        let (len, most) = (values.len(), self.host.len());
        let host = self.host.as_mut_slice()?.get_mut(..len);
        host.ok_or_else(|| Error::shape("a batch", format!("at most {most}"), len))?.copy_from_slice(values);
        let to = self.device.slice().part(0..len);
        gpu.upload_async(&self.host, to)?;
        Ok(to)
    }
}

/// Every batch of the process has a number of its own, so one is never taken for another.
static NUMBER: AtomicU64 = AtomicU64::new(0);

impl Staging {
    /// For batches of up to `batch` samples, of `values` values in all.
    pub fn new(gpu: &Arc<Gpu>, batch: usize, values: usize) -> Result<Self> {
        let place = || {
            Ok(Place {
                input: Transfer::new(gpu, values * size_of::<f32>())?,
                draws: Transfer::new(gpu, batch)?,
                holes: Transfer::new(gpu, batch)?,
                labels: Transfer::new(gpu, batch)?,
                blends: Transfer::new(gpu, batch)?,
                parameters: Transfer::new(gpu, 1)?,
                read: gpu.mark()?,
                waiting: None,
            })
        };
        Ok(Staging { places: [place()?, place()?], next: 0 })
    }

    /// Starts to copy a batch, behind the work that still reads the place it goes to, and gives its number. A batch that waits there
    /// is forgotten.
    pub fn send(&mut self, gpu: &Gpu, samples: &Samples, labels: &[u32]) -> Result<u64> {
        if let Samples::Staged(staged) = samples {
            return Ok(staged.number);
        }
        let place = &mut self.places[self.next];
        place.waiting = None;
        gpu.copies_after(&place.read)?;
        let (holes, blends) = (samples.holes(), samples.blends());
        if !blends.is_empty() {
            place.blends.send(gpu, blends)?;
        }
        if !holes.is_empty() {
            place.holes.send(gpu, holes)?;
        }
        let samples = match samples {
            Samples::Real(input) | Samples::Mixed { input, .. } => {
                place.input.send(gpu, bytemuck::cast_slice(input.data))?;
                Sent::Values(size_of_val(input.data))
            }
            Samples::Pictures { bytes, batch, .. } => {
                place.input.send(gpu, bytes)?;
                Sent::Pictures(*batch)
            }
            Samples::Images { draws, .. } => {
                let draws: Vec<DeviceDraw> = draws.iter().map(|&(image, draw)| DeviceDraw::new(image as usize, draw)).collect();
                place.draws.send(gpu, &draws)?;
                Sent::Draws(draws.len())
            }
            Samples::OnDevice(images) => Sent::OnDevice(*images),
            Samples::Staged(staged) => return Ok(staged.number),
        };
        place.labels.send(gpu, labels)?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        place.waiting = Some(Waiting { number, samples, holes: holes.len(), blends: blends.len(), labels: labels.len() });
        self.next = 1 - self.next;
        Ok(number)
    }

    /// Puts the batch of this number where the step reads it, with this step's parameters; an evaluation has none.
    pub fn deliver(&mut self, gpu: &Gpu, buffers: &Buffers, held: Held, number: u64, parameters: Option<StepParameters>) -> Result<()> {
        let is_it = |place: &&mut Place| place.waiting.is_some_and(|waiting| waiting.number == number);
        let gone = || Error::shape("a staged batch", "one of the last two", format!("batch {number}, whose place was given to another"));
        let place = self.places.iter_mut().find(is_it).ok_or_else(gone)?;
        let Waiting { samples, holes, blends, labels, .. } = place.waiting.take().ok_or_else(gone)?;
        let parameters = parameters.map(|parameters| place.parameters.send(gpu, &[parameters])).transpose()?;
        gpu.after_copies()?;
        if let Some(parameters) = parameters {
            gpu.copy(parameters, buffers.parameters)?;
        }
        gpu.copy(place.labels.device.slice().part(0..labels), buffers.labels.part(0..labels))?;
        // An evaluation has no loss to mix.
        if blends > 0 && !buffers.blends.is_none() {
            gpu.copy(place.blends.device.slice().part(0..blends), buffers.blends.part(0..blends))?;
        }
        let input = place.input.device.slice();
        let holes = if holes > 0 { place.holes.device.slice().part(0..holes) } else { Slice::NONE };
        match samples {
            Sent::Values(bytes) => {
                let values = input.part(0..bytes).cast();
                gpu.copy(values, buffers.input.part(0..values.len()))?;
            }
            Sent::Pictures(batch) => held.pixels()?.look_up(gpu, buffers.input, input, holes, batch)?,
            Sent::OnDevice(OnDevice::Real(values)) => strided_values(gpu, buffers.input, &values, 1.0)?,
            Sent::OnDevice(OnDevice::Bytes(bytes)) => strided_bytes(gpu, buffers.input, &bytes, held.pixels()?.table.slice())?,
            Sent::Draws(batch) => held.images()?.draw(gpu, buffers.input, place.draws.device.slice(), holes, batch)?,
        }
        gpu.set(&place.read)
    }
}

/// What a device has for the samples of every batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held<'a> {
    pub images: Option<&'a DeviceImages>,
    pub pixels: Option<&'a DevicePixels>,
}

impl<'a> Held<'a> {
    fn images(self) -> Result<&'a DeviceImages> {
        self.images.ok_or_else(|| Error::shape("train_step", "images on the device (Network::hold_images)", "none"))
    }

    fn pixels(self) -> Result<&'a DevicePixels> {
        self.pixels.ok_or_else(|| Error::shape("a batch of pictures", "what bytes stand for (Network::form_of)", "nothing"))
    }
}

/// What the bytes of pictures stand for, on a device.
#[derive(Debug)]
pub(super) struct DevicePixels {
    /// The same on the host.
    pixels: Pixels,
    /// `[C][256]`.
    table: Memory<f32>,
}

impl DevicePixels {
    pub fn new(gpu: &Arc<Gpu>, pixels: &Pixels) -> Result<Self> {
        Ok(DevicePixels { table: gpu.memory_of(&pixels.table())?, pixels: pixels.clone() })
    }

    pub fn is(&self, pixels: &Pixels) -> bool {
        self.pixels == *pixels
    }

    /// Values of a batch, `[B][1][H][W][C]`, from bytes of this shape.
    fn look_up(&self, gpu: &Gpu, out: Slice<f32>, images: Slice<u8>, holes: Slice<Hole>, batch: usize) -> Result<()> {
        let pictures = Pictures { images, draws: Slice::NONE, holes, table: self.table.slice() };
        augment(gpu, out, &pictures, self.pixels.shape(), batch, 0)
    }
}

/// The training images of a data set in the memory of a device.
#[derive(Debug)]
pub(super) struct DeviceImages {
    /// `[N][H][W][C]`.
    bytes: Memory<u8>,
    pixels: DevicePixels,
    crop_pad: usize,
}

impl DeviceImages {
    pub fn new(gpu: &Arc<Gpu>, dataset: &Dataset, crop_pad: usize) -> Result<Self> {
        let bytes = gpu.memory_of(&dataset.train.images.pixels)?;
        Ok(DeviceImages { bytes, pixels: DevicePixels::new(gpu, &Pixels::of(dataset))?, crop_pad })
    }

    /// Crops, mirrors and normalises a batch, `[B][1][H][W][C]`.
    fn draw(&self, gpu: &Gpu, out: Slice<f32>, draws: Slice<DeviceDraw>, holes: Slice<Hole>, batch: usize) -> Result<()> {
        let DevicePixels { table, pixels } = &self.pixels;
        let pictures = Pictures { images: self.bytes.slice(), draws, holes, table: table.slice() };
        augment(gpu, out, &pictures, pixels.shape(), batch, self.crop_pad)
    }
}
