//! What single operations take at the real model's sizes: `--figures`.

use crate::oracle::{random, upload_bf16, upload_f32};
use libtest_mimic::Failed;
use std::time::Instant;
use zimage_cuda::dnn::Attention;
use zimage_cuda::matmul::{Output, Product};
use zimage_cuda::ops::embed::swiglu;
use zimage_cuda::ops::hopper::{self, Factors, gate_up_swiglu};
use zimage_cuda::ops::norm::{Added, Next, Rows, add_norm};
use zimage_cuda::ops::rope::{Heads, Pairs, norm_and_rotate};
use zimage_cuda::{Compute, GpuError, Memory};

pub(crate) const DIM: usize = 3840;
pub(crate) const FFN: usize = 10_240;

/// Prints the time of each operation of a block for so many tokens, repeated for half a second.
pub(crate) fn print(compute: &Compute, tokens: usize) -> Result<(), Failed> {
    let gpu = &compute.gpu;
    let numbers = |count: usize| -> Result<Memory, GpuError> {
        let some = random(1, count.min(1 << 22));
        let all: Vec<f32> = some.iter().copied().cycle().take(count).collect();
        upload_bf16(gpu, &all)
    };
    let x = numbers(tokens * 2 * FFN)?;
    let y = numbers(tokens * 2 * FFN)?;
    let z = numbers(tokens * 2 * FFN)?;
    let weights: Vec<f32> = random(2, 1 << 22).iter().map(|w| w * 0.02).collect();
    let weights: Vec<f32> = weights
        .iter()
        .copied()
        .cycle()
        .take(2 * FFN * DIM)
        .collect();
    let weight = upload_bf16(gpu, &weights)?;
    let table = upload_f32(gpu, &random(3, tokens * 128))?;
    let vector = upload_f32(gpu, &random(4, DIM))?;
    let heads = Heads {
        tokens,
        heads: 30,
        kv_heads: 30,
        width: 128,
    };
    let rows = Rows {
        count: tokens,
        width: DIM,
        eps: 1e-5,
    };
    println!("{tokens} tokens:");
    for (name, n, k) in [
        ("qkv", 3 * DIM, DIM),
        ("out", DIM, DIM),
        ("gate and up", 2 * FFN, DIM),
        ("down", DIM, FFN),
    ] {
        let product = Product {
            m: tokens,
            n,
            k,
            output: Output::Bf16,
        };
        let operands = (x.region(), weight.region());
        let seconds = time(compute, || {
            compute
                .matmuls
                .run(gpu, product, y.region(), operands, None)
        })?;
        let rate = 2.0 * (tokens * n * k) as f64 / seconds / 1e12;
        println!("  {name:<14} {:8.1} us  {rate:6.0} TFLOP/s", 1e6 * seconds);
    }
    let attention = Attention {
        heads,
        causal: false,
    };
    let seconds = time(compute, || {
        compute.dnn.attend(gpu, attention, y.region(), x.region())
    })?;
    let rate = 4.0 * (tokens * tokens * DIM) as f64 / seconds / 1e12;
    println!(
        "  {:<14} {:8.1} us  {rate:6.0} TFLOP/s",
        "attention",
        1e6 * seconds
    );
    let bytes = |name: &str, bytes: usize, seconds: f64| {
        let rate = bytes as f64 / seconds / 1e9;
        println!("  {name:<14} {:8.1} us  {rate:6.0} GB/s", 1e6 * seconds);
    };
    let seconds = time(compute, || {
        norm_and_rotate(
            gpu,
            heads,
            Pairs::Interleaved,
            x.region(),
            Some((weight.region(), weight.region(), 1e-5)),
            table.region(),
        )
    })?;
    bytes("norm and rope", tokens * DIM * 2 * 4, seconds);
    let added = Added {
        h: y.region(),
        weight: Some(weight.region()),
        gate: Some(vector.region()),
    };
    let next = Next {
        y: z.region(),
        weight: weight.region(),
        scale: Some(vector.region()),
    };
    let seconds = time(compute, || {
        add_norm(gpu, rows, x.region(), added, Some(next))
    })?;
    bytes("add and norm", tokens * DIM * 2 * 4, seconds);
    let seconds = time(compute, || {
        swiglu(gpu, z.region(), y.region(), (tokens, FFN))
    })?;
    bytes("swiglu", tokens * FFN * 2 * 3, seconds);
    if hopper::available(gpu) {
        let seconds = time(compute, || {
            hopper::attend(gpu, heads, y.region(), x.region())
        })?;
        let rate = 4.0 * (tokens * tokens * DIM) as f64 / seconds / 1e12;
        println!(
            "  {:<14} {:8.1} us  {rate:6.0} TFLOP/s",
            "own attention",
            1e6 * seconds
        );
        let factors = Factors {
            x: x.region(),
            weight: weight.region(),
            depth: DIM,
        };
        let seconds = time(compute, || {
            gate_up_swiglu(gpu, y.region(), factors, (tokens, FFN))
        })?;
        let rate = 4.0 * (tokens * FFN * DIM) as f64 / seconds / 1e12;
        println!(
            "  {:<14} {:8.1} us  {rate:6.0} TFLOP/s",
            "both in one",
            1e6 * seconds
        );
    }
    Ok(())
}

/// Seconds of one run, of as many as half a second takes.
fn time(compute: &Compute, run: impl FnMut() -> Result<(), GpuError>) -> Result<f64, GpuError> {
    time_for(compute, 0.5, run)
}

/// Seconds of one run, of as many as so many seconds take.
pub(crate) fn time_for(
    compute: &Compute,
    seconds: f64,
    mut run: impl FnMut() -> Result<(), GpuError>,
) -> Result<f64, GpuError> {
    let mut many = |count: u32| -> Result<f64, GpuError> {
        compute.gpu.synchronize()?;
        let began = Instant::now();
        for _ in 0..count {
            run()?;
        }
        compute.gpu.synchronize()?;
        Ok(began.elapsed().as_secs_f64() / f64::from(count))
    };
    many(3)?;
    let once = many(10)?;
    many((seconds / once).clamp(10.0, 20_000.0) as u32)
}
