//! Whose optimiser state a device has, and that of others while they wait.

use std::sync::Arc;

use super::Session;
use crate::error::Result;
use crate::network::Network;
use crate::ops::optimizer::Optimizer;

impl Session {
    /// Keeps the optimiser state that steps have changed on the device, for when its optimiser comes again.
    pub(super) fn carry_optimizer(&mut self) -> Result<()> {
        let (true, false, Some(holder), Some(resident)) = (self.device_is_newer, self.optimizer_is_newer, self.holder, &self.resident)
        else {
            return Ok(());
        };
        let mut arenas = resident.buffers.optimizer_arenas().map(|buffer| vec![0.0; buffer.len()]);
        for (arena, buffer) in arenas.iter_mut().zip(resident.buffers.optimizer_arenas()) {
            self.gpu.download(buffer, arena)?;
        }
        self.carried.retain(|(of, _)| *of != holder);
        self.carried.push((holder, arenas));
        Ok(())
    }

    /// What was kept of an optimiser, once.
    pub(super) fn take_carried(&mut self, optimizer: &Optimizer) -> Option<[Vec<f32>; 4]> {
        let at = self.carried.iter().position(|(of, _)| *of == optimizer.identity.number())?;
        Some(self.carried.swap_remove(at).1)
    }
}

impl Network {
    /// Brings the optimiser's state to the device, unless the device has it.
    pub(super) fn bring_optimizer(&mut self, optimizer: &Optimizer) -> Result<()> {
        let Some(session) = &mut self.session else { return Ok(()) };
        let Some(resident) = &session.resident else { return Ok(()) };
        let is_spared = |held: &Option<Arc<[u32]>>| held.as_ref().is_some_and(|held| Arc::ptr_eq(held, &optimizer.spared));
        if !optimizer.spared.is_empty() && !is_spared(&session.spared) {
            session.gpu.upload(&optimizer.spared, resident.buffers.spared)?;
            session.spared = Some(optimizer.spared.clone());
        }
        let is_held = session.holder == Some(optimizer.identity.number());
        if is_held && !session.optimizer_is_newer {
            return Ok(());
        }
        if !is_held {
            session.carry_optimizer()?;
        }
        let carried = session.take_carried(optimizer);
        let Some(resident) = &session.resident else { return Ok(()) };
        let arenas = carried.as_ref().map_or_else(|| optimizer.arenas(), |arenas| arenas.each_ref().map(Vec::as_slice));
        // An average that no step has set yet is empty.
        for (arena, buffer) in arenas.into_iter().zip(resident.buffers.optimizer_arenas()).filter(|(arena, _)| !arena.is_empty()) {
            session.gpu.upload(arena, buffer)?;
        }
        (session.optimizer_is_newer, session.holder) = (false, Some(optimizer.identity.number()));
        Ok(())
    }
}
