//! Images as a network takes them: from the host, or from the network's own device, where they stay.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dsr::Network as Engine;
use dsr::data::{DataCard, Pixels};
use dsr::device::Gpu;
use dsr::network::{Input, Samples as Given};
use dsr::ops::augment::{OnDevice, strided_not_finite};
use numpy::PyUntypedArrayMethods;
use pyo3::exceptions::PyUserWarning;
use pyo3::prelude::*;

use crate::arrays::{self, Layout};
use crate::errors::wrong;
use crate::lent::{self, Lent, Values};
use crate::network::Network;

/// Samples of one call.
pub struct Samples {
    place: Place,
    order: Layout,
    /// Number of samples.
    pub batch: usize,
    /// Images of a sample: 1, or T.
    pub frames: usize,
}

enum Place {
    /// `[B][frames][H][W][C]`.
    Host(Vec<f32>),
    Device(Lent),
}

impl Network {
    /// Images `[B, C, H, W]` or, of recordings, `[B, T, C, H, W]`, where the network computes if they are there, else from the host.
    ///
    /// # Errors
    /// `ValueError` for another shape or type, and for a value of the host that is not finite.
    pub fn samples(&self, py: Python<'_>, images: &Bound<'_, PyAny>, layout: &str) -> PyResult<Samples> {
        let gpu = lent::gpu_of(&*self.engine(py)?);
        let samples = self.samples_at(gpu.as_ref(), py, images, layout)?;
        if samples.device().is_none() {
            note(images, gpu.as_ref())?;
        }
        Ok(samples)
    }

    /// The same for work on this device, or on the CPU.
    pub fn samples_at(&self, gpu: Option<&Arc<Gpu>>, py: Python<'_>, images: &Bound<'_, PyAny>, layout: &str) -> PyResult<Samples> {
        let order = arrays::layout(layout)?;
        let (shape, time_steps) = {
            let engine = self.engine(py)?;
            (engine.input, engine.time_steps)
        };
        let fits = |axes: &[usize]| batch_and_frames(axes, order, shape, time_steps);
        if let Some(lent) = lent::lent("images", images, gpu, |axes| fits(axes).map(drop))? {
            let [batch, frames] = fits(&lent.shape)?;
            return Ok(Samples { place: Place::Device(lent), order, batch, frames });
        }
        let array = arrays::on_host("images", images)?;
        let [batch, frames] = fits(array.shape())?;
        let values = arrays::values(&array, order, shape, self.card())?;
        Ok(Samples { place: Place::Host(values), order, batch, frames })
    }
}

/// Samples and frames of images with these axes.
fn batch_and_frames(axes: &[usize], order: Layout, [height, width, channels]: [usize; 3], time_steps: usize) -> PyResult<[usize; 2]> {
    let (image, letters) = match order {
        Layout::Nchw => ([channels, height, width], "C, H, W"),
        Layout::Nhwc => ([height, width, channels], "H, W, C"),
    };
    let (batch, frames) = match axes[..] {
        [batch, a, b, c] if [a, b, c] == image => (batch, 1),
        [batch, frames, a, b, c] if [a, b, c] == image && (frames == 1 || frames == time_steps) => (batch, frames),
        _ => {
            let [a, b, c] = image;
            let expected = format!("[B, {letters}] = [B, {a}, {b}, {c}], or [B, T, {letters}] with T = {time_steps}");
            return Err(wrong("images", format!("have shape {axes:?}; this network takes {expected}")));
        }
    };
    if batch == 0 {
        return Err(wrong("images", "there is none in this batch"));
    }
    Ok([batch, frames])
}

/// Says once a process that images of a device have gone through the host.
fn note(given: &Bound<'_, PyAny>, gpu: Option<&Arc<Gpu>>) -> PyResult<()> {
    static NOTED: AtomicBool = AtomicBool::new(false);
    let Some(device) = lent::cuda_device(given)? else { return Ok(()) };
    if NOTED.swap(true, Ordering::Relaxed) {
        return Ok(());
    }
    let why = match gpu {
        Some(gpu) if i32::try_from(gpu.ordinal()) == Ok(device) => {
            "though the network computes there: they are lent from the current device and its usual CUDA context only \
             (torch.cuda.set_device)"
                .to_string()
        }
        Some(gpu) => format!("since the network computes on cuda:{}; net.to('cuda:{device}') spares that", gpu.ordinal()),
        None => format!("since the network computes on the CPU; net.to('cuda:{device}') spares that"),
    };
    let note = format!("dsr: images on cuda:{device} go through the host, {why}");
    let note = std::ffi::CString::new(note).unwrap_or_default();
    PyErr::warn(given.py(), &given.py().get_type::<PyUserWarning>(), &note, 2)
}

impl Samples {
    /// Whether they lie on the device of the network.
    pub fn device(&self) -> Option<&Arc<Gpu>> {
        match &self.place {
            Place::Host(_) => None,
            Place::Device(lent) => Some(&lent.gpu),
        }
    }

    /// All of them, for the engine.
    pub fn all(&self) -> Given<'_> {
        self.part(0..self.batch)
    }

    /// Some of them.
    pub fn part(&self, samples: Range<usize>) -> Given<'_> {
        match &self.place {
            Place::Host(values) => {
                let sample = values.len() / self.batch;
                let data = &values[samples.start * sample..samples.end * sample];
                Given::Real(Input { data, batch: samples.len(), frames: self.frames })
            }
            Place::Device(lent) => Given::OnDevice(self.on_device(lent).part(samples)),
        }
    }

    /// `[B][frames][H][W][C]` by the order of the axes.
    fn on_device(&self, lent: &Lent) -> OnDevice {
        // Without an axis of frames, the one in front of all axes has one index, too.
        let [samples, frames] = if lent.shape.len() == lent::AXES { [0, 1] } else { [1, 0] };
        let order = match self.order {
            Layout::Nhwc => [samples, frames, 2, 3, 4],
            Layout::Nchw => [samples, frames, 3, 4, 2],
        };
        match lent.values {
            Values::Real(values) => OnDevice::Real(values.with_axes(order)),
            Values::Bytes(bytes) => OnDevice::Bytes(bytes.with_axes(order)),
        }
    }

    /// Before the engine takes samples of its device: that they are still on it, that it knows what bytes stand for, and, of values that
    /// nobody has looked at, that all are finite.
    ///
    /// # Errors
    /// `Config` if not, `Device` if the device fails.
    pub fn check(&self, engine: &mut Engine, card: &DataCard) -> dsr::Result<()> {
        let Place::Device(lent) = &self.place else { return Ok(()) };
        self.same_device(engine)?;
        match &lent.values {
            Values::Bytes(_) => engine.look_up_by(&Pixels::of_card(card)),
            Values::Real(values) => {
                lent.gpu.after_copies()?; // which whoever lends them has made wait for what writes them
                match strided_not_finite(&lent.gpu, values)? {
                    None => Ok(()),
                    Some((at, value)) => Err(arrays::not_finite(at / (values.len() / self.batch), value)),
                }
            }
        }
    }

    /// That the network still computes where the samples are: another thread may have moved it.
    ///
    /// # Errors
    /// `Config` if not.
    pub fn same_device(&self, engine: &Engine) -> dsr::Result<()> {
        self.device().map_or(Ok(()), |gpu| lent::same_device("images", engine, gpu))
    }
}
