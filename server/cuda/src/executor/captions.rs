//! Prompts as the transformer sees them at every step, kept for when they come again.

use super::CudaExecutor;
use crate::error::GpuError;
use crate::memory::{Memory, Region};
use std::collections::VecDeque;
use std::sync::Arc;

/// Bytes of the captions that are kept beyond their requests.
const KEPT: usize = 64 << 20;

/// A prompt, embedded and refined.
pub(super) struct Caption {
    /// (padded, dim)
    memory: Memory,
    padded: usize,
}

impl Caption {
    pub(super) const fn padded(&self) -> usize {
        self.padded
    }

    pub(super) const fn region(&self) -> Region {
        self.memory.region()
    }
}

/// The captions of the last prompts, the latest first.
#[derive(Default)]
pub(super) struct Captions(VecDeque<(Vec<u32>, Arc<Caption>)>);

impl Captions {
    fn find(&mut self, ids: &[u32]) -> Option<Arc<Caption>> {
        let place = self.0.iter().position(|(known, _)| known == ids)?;
        let found = self.0.remove(place)?;
        let caption = Arc::clone(&found.1);
        self.0.push_front(found);
        Some(caption)
    }

    /// Keeps a caption; those of the oldest prompts make room for it.
    fn keep(&mut self, ids: &[u32], caption: &Arc<Caption>) -> Vec<Arc<Caption>> {
        self.0.push_front((ids.to_vec(), Arc::clone(caption)));
        let mut bytes = 0;
        let has_room = |(_, caption): &(Vec<u32>, Arc<Caption>)| {
            bytes += caption.region().bytes();
            bytes <= KEPT
        };
        let kept = self.0.iter().map(has_room).take_while(|room| *room).count();
        self.0.drain(kept..).map(|(_, caption)| caption).collect()
    }
}

impl CudaExecutor {
    /// Bytes that a caption needs while it is made.
    pub(super) fn caption_bytes(&self, tokens: usize) -> Result<usize, GpuError> {
        let text = self.text_encoder.bytes(tokens)?.next_multiple_of(256);
        Ok(text + self.transformer.refine_bytes(tokens)?)
    }

    /// The captions of a prompt and, with guidance, of the negative prompt.
    pub(super) fn captions_of(
        &mut self,
        prompt: &[u32],
        negative: Option<&[u32]>,
    ) -> Result<(Arc<Caption>, Option<Arc<Caption>>), GpuError> {
        let caption = self.caption(prompt)?;
        let negative = negative.map(|ids| self.caption(ids)).transpose()?;
        Ok((caption, negative))
    }

    /// The caption of a prompt's tokens.
    fn caption(&mut self, ids: &[u32]) -> Result<Arc<Caption>, GpuError> {
        if let Some(known) = self.captions.find(ids) {
            return Ok(known);
        }
        let text = self.text_encoder.bytes(ids.len())?.next_multiple_of(256);
        let bytes = self.caption_bytes(ids.len())?;
        let scratch = self.scratch(bytes)?;
        let memory = self.memory(self.transformer.refined_bytes(ids.len()))?;
        let rest = scratch.part(text, scratch.bytes() - text)?;
        let (compute, encoder) = (&self.compute, &self.text_encoder);
        let plan = self
            .plans
            .prompt(compute, encoder, scratch.part(0, text)?, ids.len())?;
        let hidden = plan.run(compute, encoder, ids)?;
        let hidden = (hidden, ids.len());
        let padded = self
            .transformer
            .refine(compute, rest, hidden, memory.region())?;
        let caption = Arc::new(Caption { memory, padded });
        // A request that still needs one keeps it.
        let gone = self.captions.keep(ids, &caption).into_iter();
        for Caption { memory, .. } in gone.filter_map(Arc::into_inner) {
            self.spare(memory);
        }
        Ok(caption)
    }
}
