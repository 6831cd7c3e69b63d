//! From a checkpoint's files to device memory.
//!
//! ```text
//! mapped file ─> pinned memory (several threads) ─> device ─> bfloat16
//!                 └──── one buffer is copied while the other is filled ────┘
//! ```

mod staging;

use crate::compute::Linear;
use crate::error::{GpuError, LoadError};
use crate::gpu::Gpu;
use crate::matmul::Output;
use crate::memory::{Layout, Memory, Region};
use crate::ops::{BF16, F32};
use half::bf16;
use staging::Staging;
use zimage_checkpoint::layout::Expected;
use zimage_checkpoint::{Checkpoint, Component, TensorView};

/// What was not counted takes memory in pieces of this many bytes: only sizes that are filled up need it.
const PIECE: usize = 16 << 20;

/// Regions begin at multiples of this.
const ALIGNMENT: usize = 256;

/// Reads one component's tensors into device memory.
pub(crate) struct Loader<'a> {
    gpu: &'a Gpu,
    checkpoint: &'a Checkpoint,
    component: Component,
    staging: Staging<'a>,
    memory: Vec<Memory>,
    layout: Layout,
}

impl<'a> Loader<'a> {
    /// For the tensors whose names `wanted` takes.
    pub(crate) fn new(
        gpu: &'a Gpu,
        checkpoint: &'a Checkpoint,
        component: Component,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<Self, LoadError> {
        let tensors = checkpoint.expected(component);
        let bytes = |tensor: &Expected| {
            // Vectors may be kept in float32.
            let width = if tensor.shape.len() == 1 { F32 } else { BF16 };
            let count: usize = tensor.shape.iter().product();
            (count * width).next_multiple_of(ALIGNMENT)
        };
        let wanted = tensors.iter().filter(|tensor| wanted(&tensor.name));
        let memory = gpu.allocate(wanted.map(bytes).sum())?;
        Ok(Self {
            gpu,
            checkpoint,
            component,
            staging: Staging::new(gpu)?,
            layout: Layout::over(memory.region()),
            memory: vec![memory],
        })
    }

    /// Waits for the last copy, and gives what holds every region that was handed out.
    pub(crate) fn finish(self) -> Result<Vec<Memory>, LoadError> {
        self.gpu.synchronize()?;
        Ok(self.memory)
    }

    fn take(&mut self, bytes: usize) -> Result<Region, GpuError> {
        if let Ok(region) = self.layout.take(bytes) {
            return Ok(region);
        }
        let memory = self.gpu.allocate(bytes.max(PIECE))?;
        self.layout = Layout::over(memory.region());
        self.memory.push(memory);
        self.layout.take(bytes)
    }

    fn view(&self, name: &str, shape: &[usize]) -> Result<TensorView<'a>, LoadError> {
        let view = self
            .checkpoint
            .tensor_of_shape(self.component, name, shape)?;
        Ok(view)
    }

    /// A tensor in bfloat16.
    pub(crate) fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Region, LoadError> {
        let view = self.view(name, shape)?;
        let count: usize = shape.iter().product();
        let region = self.take(count * BF16)?;
        self.staging.copy(region, &view.bytes, view.dtype)?;
        Ok(region)
    }

    /// Matrices of `columns` columns in bfloat16, the rows of one behind those of another; `(name, rows)`.
    pub(crate) fn stack(
        &mut self,
        parts: &[(String, usize)],
        columns: usize,
    ) -> Result<Region, LoadError> {
        let rows: usize = parts.iter().map(|(_, rows)| rows).sum();
        let region = self.take(rows * columns * BF16)?;
        let mut start = 0;
        for (name, rows) in parts {
            let view = self.view(name, &[*rows, columns])?;
            let bytes = rows * columns * BF16;
            self.staging
                .copy(region.part(start, bytes)?, &view.bytes, view.dtype)?;
            start += bytes;
        }
        Ok(region)
    }

    /// As [`Self::stack`], each matrix filled with zeros up to `padded` rows and columns.
    pub(crate) fn stack_padded(
        &mut self,
        parts: &[(String, usize)],
        columns: usize,
        padded: (usize, usize),
    ) -> Result<Region, LoadError> {
        if parts.iter().all(|&(_, rows)| (rows, columns) == padded) {
            return self.stack(parts, columns);
        }
        let mut values = Vec::with_capacity(parts.len() * padded.0 * padded.1);
        for (name, rows) in parts {
            let whole = self.view(name, &[*rows, columns])?.to_f32();
            for row in whole.chunks_exact(columns) {
                values.extend(row.iter().copied().map(bf16::from_f32));
                values.resize(values.len() + padded.1 - columns, bf16::ZERO);
            }
            values.resize(values.len() + (padded.0 - rows) * padded.1, bf16::ZERO);
        }
        self.upload_bf16(&values)
    }

    /// Vectors in float32, one behind the other, each filled with zeros up to a multiple of eight; `(name, length)`.
    pub(crate) fn vectors(&mut self, parts: &[(String, usize)]) -> Result<Region, LoadError> {
        let mut values = Vec::new();
        for (name, length) in parts {
            values.extend(self.view(name, &[*length])?.to_f32());
            values.resize(values.len().next_multiple_of(8), 0f32);
        }
        let region = self.take(values.len() * F32)?;
        self.gpu.upload(region, &values)?;
        Ok(region)
    }

    /// A vector in bfloat16, filled with zeros up to a multiple of eight.
    pub(crate) fn vector(&mut self, name: &str, length: usize) -> Result<Region, LoadError> {
        let whole = self.view(name, &[length])?.to_f32();
        let mut values: Vec<bf16> = whole.into_iter().map(bf16::from_f32).collect();
        values.resize(length.next_multiple_of(8), bf16::ZERO);
        self.upload_bf16(&values)
    }

    pub(crate) fn upload_bf16(&mut self, values: &[bf16]) -> Result<Region, LoadError> {
        let region = self.take(values.len() * BF16)?;
        let bits: Vec<u16> = values.iter().map(|value| value.to_bits()).collect();
        self.gpu.upload(region, &bits)?;
        Ok(region)
    }

    /// A layer without a bias, of matrices whose rows are joined.
    pub(crate) fn joined(
        &mut self,
        parts: &[(String, usize)],
        inputs: usize,
    ) -> Result<Linear, LoadError> {
        Ok(Linear {
            weight: self.stack(parts, inputs)?,
            bias: None,
            outputs: parts.iter().map(|(_, rows)| rows).sum(),
            inputs,
            output: Output::Bf16,
        })
    }

    /// A layer with a bias.
    pub(crate) fn linear(
        &mut self,
        module: &str,
        (inputs, outputs): (usize, usize),
        output: Output,
    ) -> Result<Linear, LoadError> {
        let bias = format!("{module}.bias");
        Ok(Linear {
            weight: self.tensor(&format!("{module}.weight"), &[outputs, inputs])?,
            bias: Some(match output {
                Output::Bf16 => self.vector(&bias, outputs)?,
                Output::F32 => self.vectors(&[(bias, outputs)])?,
            }),
            outputs,
            inputs,
            output,
        })
    }

    /// The weight of a convolution, (outputs, kernel, kernel, inputs), both channels filled up to multiples of eight.
    pub(crate) fn kernels(
        &mut self,
        name: &str,
        [outputs, inputs, size]: [usize; 3],
    ) -> Result<Region, LoadError> {
        let whole = self.view(name, &[outputs, inputs, size, size])?.to_f32();
        let (all_outputs, all_inputs) = (outputs.next_multiple_of(8), inputs.next_multiple_of(8));
        let area = size * size;
        let mut values = vec![bf16::ZERO; all_outputs * area * all_inputs];
        for (output, of_output) in whole.chunks_exact(inputs * area).enumerate() {
            for (input, of_input) in of_output.chunks_exact(area).enumerate() {
                for (at, &value) in of_input.iter().enumerate() {
                    values[(output * area + at) * all_inputs + input] = bf16::from_f32(value);
                }
            }
        }
        self.upload_bf16(&values)
    }
}
