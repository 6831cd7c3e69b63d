//! The one piece of memory that every part of a request computes in, one after the other.

use crate::error::GpuError;
use crate::gpu::Gpu;
use crate::memory::{Memory, Region};

/// Scratch memory. Nothing in it lives from one part of a request to the next.
pub(super) struct Arena {
    memory: Option<Memory>,
    /// Kept when no request needs more.
    reserved: usize,
    /// Bytes of the GPU's memory that are used at most.
    limit: Option<usize>,
}

impl Arena {
    pub(super) const fn new(limit: Option<usize>) -> Self {
        Self {
            memory: None,
            reserved: 0,
            limit,
        }
    }

    pub(super) fn region(&self) -> Region {
        self.memory.as_ref().map_or(Region::NONE, Memory::region)
    }

    /// Bytes that the arena may have: what nothing else uses of what may be used.
    pub(super) fn room(&self, gpu: &Gpu) -> Result<usize, GpuError> {
        let (free, all) = gpu.memory()?;
        let others = all - free - self.region().bytes();
        Ok(self.most(all).saturating_sub(others))
    }

    /// Bytes of the GPU's memory that may be used.
    fn most(&self, all: usize) -> usize {
        self.limit.map_or(all, |limit| limit.min(all))
    }

    /// What is never given back.
    pub(super) fn reserve(&mut self, gpu: &Gpu, bytes: usize) -> Result<(), GpuError> {
        self.grow(gpu, bytes)?;
        self.reserved = bytes;
        Ok(())
    }

    /// Makes room. `true`: the arena is another one than before.
    pub(super) fn grow(&mut self, gpu: &Gpu, bytes: usize) -> Result<bool, GpuError> {
        let has = self.region().bytes();
        if bytes <= has {
            return Ok(false);
        }
        let (free, all) = gpu.memory()?;
        let after = all - free - has + bytes;
        let most = self.most(all);
        if after > most {
            return Err(GpuError::NoRoom {
                needs: after,
                limit: most,
            });
        }
        self.replace(gpu, bytes)
    }

    /// Gives back what was only needed by a large request. `true`: the arena is another one than before.
    pub(super) fn shrink(&mut self, gpu: &Gpu) -> Result<bool, GpuError> {
        if self.region().bytes() <= self.reserved {
            return Ok(false);
        }
        self.replace(gpu, self.reserved)
    }

    fn replace(&mut self, gpu: &Gpu, bytes: usize) -> Result<bool, GpuError> {
        gpu.synchronize()?;
        // The old one goes first: there may be no room for both.
        self.memory = None;
        self.memory = Some(gpu.allocate(bytes)?);
        Ok(true)
    }
}
