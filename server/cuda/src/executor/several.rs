//! The same model on several GPUs. Each has an executor of its own, which knows nothing of the others.

use super::{CudaExecutor, CudaOptions};
use crate::error::{GpuError, LoadError};
use crate::matmul::Algorithms;
use crate::memory::Memory;
use std::thread;
use zimage_checkpoint::Checkpoint;

/// What other GPUs take from the first.
pub(super) struct Loaded<'a> {
    pub(super) text_encoder: &'a [Memory],
    pub(super) transformer: &'a [Memory],
    pub(super) decoder: &'a [Memory],
    pub(super) encoder: &'a [Memory],
    pub(super) algorithms: Algorithms,
}

impl CudaExecutor {
    /// As [`Self::load`], on so many GPUs from that of `options` on. The files are read once, for the first; the others
    /// copy its weights and compute with its algorithms, so that a request gives the same bytes on each.
    ///
    /// # Errors
    /// Says what a GPU or the checkpoint lacks.
    pub fn load_all(
        checkpoint: &Checkpoint,
        options: &CudaOptions,
        gpus: usize,
    ) -> Result<Vec<Self>, LoadError> {
        let first = Self::load(checkpoint, options)?;
        let loaded = first.loaded();
        let load = |number: usize| {
            let mut options = options.clone();
            options.gpu.ordinal += number;
            Self::open(checkpoint, &options, Some(&loaded))
        };
        let load = &load;
        let others: Result<Vec<Self>, LoadError> = thread::scope(|scope| {
            let threads: Vec<_> = (1..gpus)
                .map(|number| scope.spawn(move || load(number)))
                .collect();
            let join = |thread: thread::ScopedJoinHandle<'_, _>| {
                let panicked = || GpuError::library("load", "the thread of a GPU panicked").into();
                thread.join().unwrap_or_else(|_| Err(panicked()))
            };
            threads.into_iter().map(join).collect()
        });
        drop(loaded);
        let mut all = vec![first];
        all.extend(others?);
        Ok(all)
    }

    fn loaded(&self) -> Loaded<'_> {
        Loaded {
            text_encoder: self.text_encoder.memory(),
            transformer: self.transformer.memory(),
            decoder: self.decoder.memory(),
            encoder: self.encoder.memory(),
            algorithms: self.compute.matmuls.algorithms(),
        }
    }
}
