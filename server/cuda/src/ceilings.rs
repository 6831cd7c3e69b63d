//! What the libraries reach at most, for a benchmark to be compared with.

use crate::compute::Compute;
use crate::error::{GpuError, LoadError};
use crate::gpu::GpuOptions;
use crate::matmul::{Output, Product};
use crate::ops::BF16;
use crate::shapes::Attention;
use crate::shapes::Heads;
use half::bf16;
use std::time::{Duration, Instant};
use zimage_core::noise::Generator;

/// How long each is computed: a card at its power limit lowers its clock within less.
const TIME: Duration = Duration::from_secs(3);

/// Runs between two looks at the clock.
const RUNS: usize = 20;

/// Random numbers that operands are filled with, again and again.
const SOME: usize = 1 << 18;

/// Floating point operations a second in bfloat16, back to back.
#[derive(Clone, Copy, Debug)]
pub struct Ceilings {
    /// Of a product of 8192 x 8192 matrices through cuBLASLt.
    pub product: f64,
    /// Of attention over 4160 tokens with 30 heads of 128 through cuDNN.
    pub attention: f64,
}

impl Ceilings {
    /// Computes each for three seconds.
    ///
    /// # Errors
    /// When a library is missing, or there is no memory.
    pub fn measure(options: &GpuOptions) -> Result<Self, LoadError> {
        let compute = Compute::open(options)?;
        Ok(Self {
            product: product(&compute)?,
            attention: attention(&compute)?,
        })
    }
}

fn product(compute: &Compute) -> Result<f64, GpuError> {
    let (gpu, side) = (&compute.gpu, 8192);
    let product = Product {
        m: side,
        n: side,
        k: side,
        output: Output::Bf16,
    };
    let memory = gpu.allocate(3 * side * side * BF16)?;
    gpu.upload_repeated(memory.region(), &some())?;
    let matrix = |number: usize| {
        let bytes = side * side * BF16;
        memory.region().part(number * bytes, bytes)
    };
    let (y, x, weight) = (matrix(0)?, matrix(1)?, matrix(2)?);
    let seconds = time(compute, || {
        compute.matmuls.run(gpu, product, y, (x, weight), None)
    })?;
    Ok(2.0 * (side as f64).powi(3) / seconds)
}

fn attention(compute: &Compute) -> Result<f64, GpuError> {
    let gpu = &compute.gpu;
    let heads = Heads {
        tokens: 4160,
        heads: 30,
        kv_heads: 30,
        width: 128,
    };
    let attention = Attention {
        heads,
        causal: false,
    };
    let (qkv, out) = (gpu.allocate(heads.bytes())?, gpu.allocate(heads.bytes())?);
    gpu.upload_repeated(qkv.region(), &some())?;
    let seconds = time(compute, || {
        compute
            .dnn
            .attend(gpu, attention, out.region(), qkv.region())
    })?;
    let (tokens, dim) = (heads.tokens as f64, (heads.heads * heads.width) as f64);
    Ok(4.0 * tokens * tokens * dim / seconds)
}

/// Normal numbers: a card draws less power and is faster on zeros.
fn some() -> Vec<u16> {
    let numbers = Generator::new(0).randn(SOME);
    let bits = numbers.into_iter().map(|x| bf16::from_f32(x).to_bits());
    bits.collect()
}

/// Seconds of one run, of the last ones.
fn time(compute: &Compute, mut run: impl FnMut() -> Result<(), GpuError>) -> Result<f64, GpuError> {
    let began = Instant::now();
    loop {
        let last = Instant::now();
        for _ in 0..RUNS {
            run()?;
        }
        compute.gpu.synchronize()?;
        if began.elapsed() > TIME {
            return Ok(last.elapsed().as_secs_f64() / RUNS as f64);
        }
    }
}
