//! From a checkpoint's files to device memory.
//!
//! ```text
//! file ─> pinned memory (several threads) ─> device ─> bfloat16 ─> eight bits, where that is wanted
//!          └──── one buffer is copied while the other is filled ────┘
//! ```
//!
//! A second GPU lays the same regions out and copies them from the first.

mod staging;

use crate::compute::Linear;
use crate::error::{GpuError, LoadError};
use crate::gpu::Gpu;
use crate::matmul::Output;
use crate::matrix::{Format, Matrix};
use crate::memory::{Layout, Memory, Region};
use crate::ops::quantise::quantise;
use crate::ops::{BF16, F32};
use half::bf16;
use staging::Staging;
use zimage_checkpoint::layout::Expected;
use zimage_checkpoint::{Checkpoint, Component};

/// What was not counted takes memory in pieces of this many bytes: only sizes that are filled up need it.
const PIECE: usize = 16 << 20;

/// Regions begin at multiples of this.
const ALIGNMENT: usize = 256;

/// The format of the matrix that a tensor becomes, by its name. `None`: it is not read.
type Formats<'a> = Box<dyn Fn(&str) -> Option<Format> + 'a>;

/// Where weights come from.
#[derive(Clone, Copy)]
pub(crate) struct Source<'a> {
    /// Tells names, shapes and settings, and holds the values.
    pub(crate) checkpoint: &'a Checkpoint,
    /// The memory in which another GPU has the same component's weights in the same formats: its values are copied, and
    /// none is read from the checkpoint.
    pub(crate) loaded: Option<&'a [Memory]>,
}

/// Reads one component's tensors into device memory.
pub(crate) struct Loader<'a> {
    gpu: &'a Gpu,
    source: Source<'a>,
    component: Component,
    formats: Formats<'a>,
    staging: Staging<'a>,
    memory: Vec<Memory>,
    layout: Layout,
    /// Where matrices are in bfloat16 before they are quantised.
    scratch: Option<Memory>,
}

/// Bytes that a tensor becomes.
fn bytes(tensor: &Expected, format: Format) -> usize {
    let bytes = match tensor.shape[..] {
        [rows, columns] => Matrix::bytes(format, (rows, columns)),
        // Vectors may be kept in float32.
        [length] => length * F32,
        _ => tensor.shape.iter().product::<usize>() * BF16,
    };
    bytes.next_multiple_of(ALIGNMENT)
}

fn rows_of(parts: &[(String, usize)]) -> usize {
    parts.iter().map(|(_, rows)| rows).sum()
}

impl<'a> Loader<'a> {
    /// For the tensors to whose names `formats` gives a format, that of the matrices which they become.
    pub(crate) fn new(
        gpu: &'a Gpu,
        source: Source<'a>,
        component: Component,
        formats: impl Fn(&str) -> Option<Format> + 'a,
    ) -> Result<Self, LoadError> {
        let tensors = source.checkpoint.expected(component);
        let wanted = tensors.iter();
        let bytes = wanted.filter_map(|tensor| Some(bytes(tensor, formats(&tensor.name)?)));
        let memory = gpu.allocate(bytes.sum())?;
        Ok(Self {
            gpu,
            source,
            component,
            formats: Box::new(formats),
            staging: Staging::new(gpu)?,
            layout: Layout::over(memory.region()),
            memory: vec![memory],
            scratch: None,
        })
    }

    /// Waits for the last copy, and gives what holds every region that was handed out.
    pub(crate) fn finish(self) -> Result<Vec<Memory>, LoadError> {
        if let Some(loaded) = self.source.loaded {
            self.copy_from(loaded)?;
        }
        self.gpu.synchronize()?;
        Ok(self.memory)
    }

    fn copy_from(&self, loaded: &[Memory]) -> Result<(), GpuError> {
        let bytes = |memory: &Memory| memory.region().bytes();
        if !loaded.iter().map(bytes).eq(self.memory.iter().map(bytes)) {
            let component = self.component;
            return Err(GpuError::Bounds(format!(
                "the weights of {component:?} lie otherwise on the other GPU"
            )));
        }
        (self.memory.iter().zip(loaded)).try_for_each(|(to, from)| self.gpu.copy_peer(to, from))
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

    /// The values of a tensor; zeros in place of those that another GPU has.
    fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, LoadError> {
        if self.source.loaded.is_some() {
            return Ok(vec![0.0; shape.iter().product()]);
        }
        let checkpoint = self.source.checkpoint;
        let view = checkpoint.tensor_of_shape(self.component, name, shape)?;
        let values = view.to_f32();
        if values.iter().all(|value| value.is_finite()) {
            return Ok(values);
        }
        Err(self.not_finite(name))
    }

    /// Copies a tensor into a region, as bfloat16.
    fn fill(&mut self, region: Region, name: &str, shape: &[usize]) -> Result<(), LoadError> {
        if self.source.loaded.is_some() {
            return Ok(());
        }
        let checkpoint = self.source.checkpoint;
        let view = checkpoint.tensor_of_shape(self.component, name, shape)?;
        match self.staging.copy(region, &view.bytes, view.dtype)? {
            true => Ok(()),
            false => Err(self.not_finite(name)),
        }
    }

    /// What to say of a tensor some of whose values are NaN or infinite: nothing can be computed with it.
    fn not_finite(&self, name: &str) -> LoadError {
        let (checkpoint, component) = (self.source.checkpoint, self.component);
        match checkpoint.check_tensor(component, name) {
            Err(error) => error.into(),
            Ok(()) => LoadError::Unsupported(format!(
                "tensor {name:?} changes while it is read: it had values that are NaN or infinite"
            )),
        }
    }

    /// A tensor in bfloat16.
    pub(crate) fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Region, LoadError> {
        let count: usize = shape.iter().product();
        let region = self.take(count * BF16)?;
        self.fill(region, name, shape)?;
        Ok(region)
    }

    /// Matrices of `columns` columns in bfloat16, the rows of one behind those of another; `(name, rows)`.
    pub(crate) fn stack(
        &mut self,
        parts: &[(String, usize)],
        columns: usize,
    ) -> Result<Region, LoadError> {
        let region = self.take(rows_of(parts) * columns * BF16)?;
        self.stack_into(region, parts, columns)?;
        Ok(region)
    }

    fn stack_into(
        &mut self,
        region: Region,
        parts: &[(String, usize)],
        columns: usize,
    ) -> Result<(), LoadError> {
        let mut start = 0;
        for (name, rows) in parts {
            let bytes = rows * columns * BF16;
            self.fill(region.part(start, bytes)?, name, &[*rows, columns])?;
            start += bytes;
        }
        Ok(())
    }

    /// As [`Self::stack`], quantised row by row.
    fn quantised(
        &mut self,
        format: Format,
        parts: &[(String, usize)],
        columns: usize,
    ) -> Result<Matrix, LoadError> {
        let shape = (rows_of(parts), columns);
        let region = self.take(Matrix::bytes(format, shape))?;
        let matrix = Matrix::within(region, format, shape)?;
        if self.source.loaded.is_none() {
            let before = self.scratch(shape.0 * shape.1 * BF16)?;
            self.stack_into(before, parts, columns)?;
            quantise(self.gpu, matrix, Matrix::bf16(before, shape)?)?;
        }
        Ok(matrix)
    }

    /// Memory that the next use of it overwrites, on the same stream.
    fn scratch(&mut self, bytes: usize) -> Result<Region, GpuError> {
        match &self.scratch {
            Some(memory) if memory.region().bytes() >= bytes => Ok(memory.region()),
            _ => {
                self.scratch = None;
                let memory = self.gpu.allocate(bytes)?;
                Ok(self.scratch.insert(memory).region())
            }
        }
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
            let whole = self.values(name, &[*rows, columns])?;
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
            values.extend(self.values(name, &[*length])?);
            values.resize(values.len().next_multiple_of(8), 0f32);
        }
        let region = self.take(values.len() * F32)?;
        if self.source.loaded.is_none() {
            self.gpu.upload(region, &values)?;
        }
        Ok(region)
    }

    /// A vector in bfloat16, filled with zeros up to a multiple of eight.
    pub(crate) fn vector(&mut self, name: &str, length: usize) -> Result<Region, LoadError> {
        let whole = self.values(name, &[length])?;
        let mut values: Vec<bf16> = whole.into_iter().map(bf16::from_f32).collect();
        values.resize(length.next_multiple_of(8), bf16::ZERO);
        self.upload_bf16(&values)
    }

    pub(crate) fn upload_bf16(&mut self, values: &[bf16]) -> Result<Region, LoadError> {
        let region = self.take(values.len() * BF16)?;
        if self.source.loaded.is_none() {
            let bits: Vec<u16> = values.iter().map(|value| value.to_bits()).collect();
            self.gpu.upload(region, &bits)?;
        }
        Ok(region)
    }

    /// A layer without a bias, of matrices whose rows are joined, in the format of the first.
    pub(crate) fn joined(
        &mut self,
        parts: &[(String, usize)],
        inputs: usize,
    ) -> Result<Linear, LoadError> {
        let format = parts.first().and_then(|(name, _)| (self.formats)(name));
        let weight = match format {
            Some(format @ (Format::S8 | Format::E4m3)) => self.quantised(format, parts, inputs)?,
            Some(Format::Bf16) | None => {
                Matrix::bf16(self.stack(parts, inputs)?, (rows_of(parts), inputs))?
            }
        };
        Ok(Linear {
            weight,
            bias: None,
            output: Output::Bf16,
        })
    }

    /// As [`Self::joined`], each matrix filled with zeros up to `padded` rows and columns. What is filled up is in bfloat16.
    pub(crate) fn joined_padded(
        &mut self,
        parts: &[(String, usize)],
        inputs: usize,
        padded: (usize, usize),
    ) -> Result<Linear, LoadError> {
        if parts.iter().all(|&(_, rows)| (rows, inputs) == padded) {
            return self.joined(parts, inputs);
        }
        let weight = self.stack_padded(parts, inputs, padded)?;
        Ok(Linear {
            weight: Matrix::bf16(weight, (parts.len() * padded.0, padded.1))?,
            bias: None,
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
        let weight = self.tensor(&format!("{module}.weight"), &[outputs, inputs])?;
        Ok(Linear {
            weight: Matrix::bf16(weight, (outputs, inputs))?,
            bias: Some(match output {
                Output::Bf16 => self.vector(&bias, outputs)?,
                Output::F32 => self.vectors(&[(bias, outputs)])?,
            }),
            output,
        })
    }

    /// The weight of a convolution, (outputs, kernel, kernel, inputs), both channels filled up to multiples of eight.
    pub(crate) fn kernels(
        &mut self,
        name: &str,
        [outputs, inputs, size]: [usize; 3],
    ) -> Result<Region, LoadError> {
        let whole = self.values(name, &[outputs, inputs, size, size])?;
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
