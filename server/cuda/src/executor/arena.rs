//! The one piece of memory that every part of a request computes in, one after the other.

use crate::error::GpuError;
use crate::gpu::Gpu;
use crate::memory::{Elastic, Region};

/// Scratch memory. Nothing in it lives from one part of a request to the next, and it always begins at the same address.
pub(super) struct Arena {
    memory: Elastic,
    /// Kept when no request needs more.
    reserved: usize,
}

impl Arena {
    pub(super) fn new(gpu: &Gpu) -> Result<Self, GpuError> {
        Ok(Self {
            memory: gpu.elastic()?,
            reserved: 0,
        })
    }

    pub(super) fn region(&self) -> Region {
        self.memory.region()
    }

    /// Bytes that the arena may have: what nothing else uses of what may be used.
    pub(super) fn room(&self, gpu: &Gpu) -> Result<usize, GpuError> {
        Ok(self.region().bytes() + gpu.room()?)
    }

    /// What is never given back.
    pub(super) fn reserve(&mut self, gpu: &Gpu, bytes: usize) -> Result<(), GpuError> {
        self.grow(gpu, bytes)?;
        self.reserved = self.region().bytes();
        Ok(())
    }

    /// Fails when there is no room for so many bytes.
    pub(super) fn require(&self, gpu: &Gpu, bytes: usize) -> Result<(), GpuError> {
        match self.memory.lacks(bytes) {
            0 => Ok(()),
            more => gpu.require_room(more),
        }
    }

    /// Makes room.
    pub(super) fn grow(&mut self, gpu: &Gpu, bytes: usize) -> Result<(), GpuError> {
        self.require(gpu, bytes)?;
        self.memory.grow(bytes)
    }

    /// Gives back what was only needed by a large request.
    pub(super) fn shrink(&mut self, gpu: &Gpu) -> Result<(), GpuError> {
        if self.region().bytes() <= self.reserved {
            return Ok(());
        }
        gpu.synchronize()?;
        self.memory.shrink(self.reserved)
    }
}
