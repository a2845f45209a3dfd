//! An inference on a CUDA device and nothing else, for measurements: logits only, by graph or kernel by kernel.

use std::cell::Cell;

use super::Session;
use super::pass::Pass;
use super::step::What;
use crate::error::{Error, Result};
use crate::network::{Input, Mode, Network, Samples};

impl Network {
    /// Logits `[B][classes]` of a batch in evaluation mode: what [`Network::forward`] gives, without firing rates and spikes. `replays`
    /// a recorded graph, or launches kernel by kernel.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] if the input does not fit the network or the network is not on a device, [`Error::Device`] if that fails.
    pub fn logits_on_device(&mut self, input: &Input, replays: bool) -> Result<Vec<f32>> {
        self.infer(input, replays, false)?;
        let Some((gpu, buffers)) = self.session.as_ref().and_then(|s| Some((&s.gpu, &s.resident.as_ref()?.buffers))) else {
            return Ok(Vec::new());
        };
        let mut values = vec![0.0; input.batch * self.classes];
        gpu.download(buffers.logits.part(0..values.len()), &mut values)?;
        gpu.fill_zero(buffers.fired)?;
        Ok(values)
    }

    /// Seconds from the first to the end of the last kernel of the same inference, by marks in the device's stream.
    ///
    /// # Errors
    /// As [`Network::logits_on_device`].
    pub fn kernel_seconds(&mut self, input: &Input, replays: bool) -> Result<f64> {
        let seconds = self.infer(input, replays, true)?;
        if let Some((gpu, buffers)) = self.session.as_ref().and_then(|s| Some((&s.gpu, &s.resident.as_ref()?.buffers))) {
            gpu.fill_zero(buffers.fired)?;
        }
        Ok(seconds)
    }

    /// Starts an inference. Waits for its end and gives the seconds of its kernels where it `times` them; else 0. The numbers of spikes,
    /// which nobody reads, are left for the caller to clear.
    fn infer(&mut self, input: &Input, replays: bool, times: bool) -> Result<f64> {
        self.check_input(input)?;
        self.reserve_for(input, Mode::Eval, None)?;
        self.bring()?;
        let what = What { batch: input.batch, frames: input.frames, is_mixed: false, training: None, place: [0, input.batch] };
        if replays {
            self.record(what)?;
        }
        self.deliver(&Samples::Real(*input), &[], None)?;
        self.ready_for_evaluation()?;
        let missing = || Error::shape("an inference on a device", "a network that is placed there", "none");
        let Session { gpu, resident, .. } = self.session.as_ref().ok_or_else(missing)?;
        let resident = resident.as_ref().ok_or_else(missing)?;
        let launch = || {
            if replays {
                return resident.recorded.iter().find(|r| r.what == what).ok_or_else(missing)?.graph.launch();
            }
            let (batch, frames, stores) = (input.batch, input.frames, self.stores(None));
            let spent = &Cell::default();
            Pass { network: self, gpu, buffers: &resident.buffers, batch, frames, training: None, stores: &stores, spent }.enqueue()
        };
        if times { gpu.time(launch) } else { launch().map(|()| 0.0) }
    }
}
