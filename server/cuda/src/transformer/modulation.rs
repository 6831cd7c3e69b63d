//! What the times of a schedule do to the blocks.

use super::Work;
use super::weights::Transformer;
use crate::compute::Compute;
use crate::error::GpuError;
use crate::gpu::Gpu;
use crate::memory::{Layout, Memory, Region};
use crate::ops::embed::{add_one, modulation, silu};
use crate::ops::storage::to_bf16;
use crate::ops::{BF16, F32};
use half::bf16;
use zimage_checkpoint::DType;
use zimage_core::rotary;

/// The modulations of each time of a schedule.
pub(crate) struct Modulations {
    /// (times, blocks, 4, dim)
    blocks: Region,
    /// (times, dim)
    last: Region,
    _memory: Memory,
    row: usize,
    dim: usize,
}

impl Modulations {
    /// Copies a time's rows to where a forward reads them.
    pub(crate) fn select(&self, gpu: &Gpu, time: usize, work: &Work) -> Result<(), GpuError> {
        let (row, last) = (self.row * F32, self.dim * F32);
        gpu.copy(work.modulation, self.blocks.part(time * row, row)?, row)?;
        gpu.copy(work.last_scale, self.last.part(time * last, last)?, last)
    }
}

impl Transformer {
    /// Embeds times from 0 (noise) to 1.
    pub(crate) fn modulations(
        &self,
        compute: &Compute,
        times: &[f32],
    ) -> Result<Modulations, GpuError> {
        let gpu = &compute.gpu;
        let (count, row, dim) = (times.len(), self.modulation_row(), self.config.dim);
        let (inputs, hidden, width) = (
            self.time_in.inputs(),
            self.time_in.outputs(),
            self.time_out.outputs(),
        );
        let lay_out = |layout: &mut Layout| -> Result<[Region; 8], GpuError> {
            Ok([
                layout.take(count * row * F32)?,
                layout.take(count * dim * F32)?,
                layout.take(count * inputs * BF16)?,
                layout.take(count * hidden * F32)?,
                layout.take(count * hidden * BF16)?,
                layout.take(count * width * F32)?,
                layout.take(count * width * BF16)?,
                layout.take(count * width * BF16)?,
            ])
        };
        let mut measured = Layout::measure();
        lay_out(&mut measured)?;
        let memory = gpu.allocate(measured.used())?;
        let [
            blocks,
            last,
            waves,
            first,
            activated,
            time,
            rounded,
            time_activated,
        ] = lay_out(&mut Layout::over(memory.region()))?;

        gpu.upload(waves, &self.waves(times))?;
        self.time_in.run(compute, count, first, waves)?;
        silu(gpu, activated, first, count * hidden)?;
        self.time_out.run(compute, count, time, activated)?;
        to_bf16(gpu, rounded, time, DType::F32, count * width)?;
        silu(gpu, time_activated, time, count * width)?;

        self.modulation.run(compute, count, blocks, rounded)?;
        modulation(gpu, blocks, (count * row / (4 * dim), dim))?;
        self.final_modulation
            .run(compute, count, last, time_activated)?;
        add_one(gpu, last, count * dim)?;
        Ok(Modulations {
            blocks,
            last,
            _memory: memory,
            row,
            dim,
        })
    }

    /// Cosines and then sines of each time, as bits of bfloat16.
    fn waves(&self, times: &[f32]) -> Vec<u16> {
        let of_time = |&time: &f32| {
            let angles = rotary::time_angles(time * self.config.t_scale as f32);
            let (cosines, sines): (Vec<f32>, Vec<f32>) =
                angles.into_iter().map(rotary::cos_sin).unzip();
            [cosines, sines].concat()
        };
        let waves = times.iter().flat_map(of_time);
        waves.map(|wave| bf16::from_f32(wave).to_bits()).collect()
    }
}
