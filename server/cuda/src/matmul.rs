//! Matrix products through cuBLASLt: bfloat16, or e4m3 with a scale for each row, added up in float32.

mod chosen;
mod description;
mod plan;
mod search;

use crate::error::{GpuError, LoadError};
use crate::gpu::{Gpu, GpuOptions};
use crate::matrix::{Format, Matrix};
use crate::memory::{Memory, Region};
use crate::ops::{BF16, F32};
pub(crate) use chosen::Algorithms;
use chosen::Chosen;
use cudarc::cublaslt::{result, sys};
use plan::Plan;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::path::Path;

/// Scratch memory that an algorithm may use.
const WORKSPACE: usize = 64 << 20;

/// How a product's result is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Output {
    /// bfloat16, and the bias too.
    Bf16,
    /// float32, and the bias too.
    F32,
}

impl Output {
    const fn bytes(self) -> usize {
        match self {
            Self::Bf16 => BF16,
            Self::F32 => F32,
        }
    }
}

/// Sizes of `y[m, n] = x[m, k] * weight[n, k]^T + bias[n]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Product {
    /// Rows of x and y.
    pub m: usize,
    /// Rows of the weight, which are y's columns.
    pub n: usize,
    /// Columns of x and the weight.
    pub k: usize,
    /// How y is stored.
    pub output: Output,
}

impl Product {
    const fn multiplications(self) -> usize {
        self.m * self.n * self.k
    }
}

/// What comes to a product beside its sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Form {
    Plain,
    Bias,
    /// Operands in e4m3, with a scale for each row of either.
    Scaled,
}

/// What a product has beside its factors.
#[derive(Clone, Copy)]
enum Beside {
    Nothing,
    Bias(Region),
    /// Addresses of the scales of x and of the weight.
    Scales(u64, u64),
}

impl Beside {
    const fn form(self) -> Form {
        match self {
            Self::Nothing => Form::Plain,
            Self::Bias(_) => Form::Bias,
            Self::Scales(..) => Form::Scaled,
        }
    }
}

/// What a product is computed of.
struct Operands {
    handle: sys::cublasLtHandle_t,
    y: Region,
    x: Region,
    weight: Region,
    beside: Beside,
    workspace: Region,
}

/// cuBLASLt, with an algorithm for each product that was computed.
pub struct Matmuls {
    plans: RefCell<HashMap<(Product, Form), Plan>>,
    chosen: RefCell<Chosen>,
    tune: Cell<bool>,
    workspace: Memory,
    handle: Handle,
}

/// Destroyed after the plans, as the last field.
struct Handle(sys::cublasLtHandle_t);

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: the handle was created and is destroyed only here.
        let _ = unsafe { result::destroy_handle(self.0) };
    }
}

impl Matmuls {
    /// With the algorithms that were chosen before, if the cache or the given table has them.
    ///
    /// # Errors
    /// When the library or memory fails, or the table is none.
    pub fn new(gpu: &Gpu, options: &GpuOptions) -> Result<Self, LoadError> {
        Self::with(gpu, Chosen::open(gpu.properties(), options)?)
    }

    /// With the algorithms that another GPU of the process computes with.
    pub(crate) fn shared(
        gpu: &Gpu,
        options: &GpuOptions,
        algorithms: &Algorithms,
    ) -> Result<Self, LoadError> {
        let chosen = Chosen::shared(gpu.properties(), options, algorithms)?;
        Self::with(gpu, chosen)
    }

    fn with(gpu: &Gpu, chosen: Chosen) -> Result<Self, LoadError> {
        let handle =
            result::create_handle().map_err(|error| GpuError::library("cublasLtCreate", error))?;
        Ok(Self {
            plans: RefCell::default(),
            chosen: RefCell::new(chosen),
            tune: Cell::new(false),
            workspace: gpu.allocate(WORKSPACE)?,
            handle: Handle(handle),
        })
    }

    pub(crate) fn algorithms(&self) -> Algorithms {
        self.chosen.borrow().algorithms()
    }

    /// Whether products of new sizes look for the fastest algorithm, which takes seconds and must not happen while work
    /// is recorded. Otherwise they take that of a product of nearly as many rows.
    pub fn tune(&self, tune: bool) {
        self.tune.set(tune);
    }

    /// Writes the algorithms to a file that [`GpuOptions::tuning`] takes.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn export(&self, path: &Path) -> io::Result<()> {
        self.chosen.borrow().export(path)
    }

    /// `y = x * weight^T + bias`.
    ///
    /// # Errors
    /// When a region is too small, there is no algorithm, or the driver reports a fault.
    pub fn run(
        &self,
        gpu: &Gpu,
        product: Product,
        y: Region,
        (x, weight): (Region, Region),
        bias: Option<Region>,
    ) -> Result<(), GpuError> {
        let Product { m, n, k, output } = product;
        y.require(m * n * output.bytes())?;
        x.require(m * k * BF16)?;
        weight.require(n * k * BF16)?;
        if let Some(bias) = bias {
            bias.require(n * output.bytes())?;
        }
        let operands = Operands {
            handle: self.handle.0,
            y,
            x,
            weight,
            beside: bias.map_or(Beside::Nothing, Beside::Bias),
            workspace: self.workspace.region(),
        };
        self.planned(gpu, product, &operands)
    }

    /// `y = x * weight^T` in bfloat16, of operands in e4m3. The library knows it on compute capability 9.0 alone.
    ///
    /// # Errors
    /// When sizes or formats do not fit together, the library has no algorithm, or the driver reports a fault.
    pub fn run_scaled(
        &self,
        gpu: &Gpu,
        y: Matrix,
        x: Matrix,
        weight: Matrix,
    ) -> Result<(), GpuError> {
        let product = Product {
            m: x.rows(),
            n: weight.rows(),
            k: x.columns(),
            output: Output::Bf16,
        };
        let formats = [x.format(), weight.format(), y.format()];
        if formats != [Format::E4m3, Format::E4m3, Format::Bf16]
            || weight.columns() != product.k
            || (y.rows(), y.columns()) != (product.m, product.n)
        {
            return Err(GpuError::Bounds(format!(
                "{product:?} is not one of {formats:?} matrices of these sizes"
            )));
        }
        let operands = Operands {
            handle: self.handle.0,
            y: y.region(),
            x: x.region(),
            weight: weight.region(),
            beside: Beside::Scales(x.scales(), weight.scales()),
            workspace: self.workspace.region(),
        };
        self.planned(gpu, product, &operands)
    }

    /// Computes a product by its plan, which is made first if need be.
    fn planned(&self, gpu: &Gpu, product: Product, operands: &Operands) -> Result<(), GpuError> {
        let key = (product, operands.beside.form());
        let mut plans = self.plans.borrow_mut();
        if let Some(plan) = plans.get(&key) {
            return plan.run(gpu, operands);
        }
        let mut chosen = self.chosen.borrow_mut();
        let plan = Plan::new(gpu, product, operands, &mut chosen, self.tune.get())?;
        plans.entry(key).or_insert(plan).run(gpu, operands)
    }
}
