//! What single operations take at the real model's sizes: `--figures`.

use crate::block::{Block, DIM, FFN};
use crate::integers::Integers;
use libtest_mimic::Failed;
use std::time::Instant;
use zimage_cuda::ops::hopper;
use zimage_cuda::{Compute, GpuError};

/// Prints the time of each operation of a block for so many tokens, repeated for half a second.
pub(crate) fn print(compute: &Compute, tokens: usize) -> Result<(), Failed> {
    let block = Block::new(compute, tokens)?;
    let flops = |name: &str, count: usize, run: &dyn Fn() -> Result<(), GpuError>| {
        show(compute, (name, count as f64 / 1e12, "TFLOP/s"), run)
    };
    let bytes = |name: &str, count: usize, run: &dyn Fn() -> Result<(), GpuError>| {
        show(compute, (name, count as f64 / 1e9, "GB/s"), run)
    };
    let both = 4 * tokens * FFN * DIM;
    let attention = 4 * tokens * tokens * DIM;
    println!("{tokens} tokens:");
    flops("qkv", 6 * tokens * DIM * DIM, &|| block.qkv())?;
    flops("out", 2 * tokens * DIM * DIM, &|| block.out())?;
    flops("gate and up", both, &|| block.gate_and_up())?;
    flops("down", 2 * tokens * FFN * DIM, &|| block.down())?;
    flops("attention", attention, &|| block.attend())?;
    bytes("norm and rope", 8 * tokens * DIM, &|| {
        block.norm_and_rotate()
    })?;
    bytes("add and norm", 8 * tokens * DIM, &|| block.add_norm())?;
    bytes("swiglu", 6 * tokens * FFN, &|| block.swiglu())?;
    if hopper::available(&compute.gpu) {
        flops("own attention", attention, &|| block.attend_ourselves())?;
        flops("both in one", both, &|| block.gate_up_swiglu())?;
        let int8 = Integers::new(&block)?;
        flops("int8 qkv", 6 * tokens * DIM * DIM, &|| int8.qkv())?;
        flops("int8 out", 2 * tokens * DIM * DIM, &|| int8.out())?;
        flops("int8 both", both, &|| int8.gate_up_swiglu())?;
        flops("int8 down", 2 * tokens * FFN * DIM, &|| int8.down())?;
        bytes("int8 add, norm", 7 * tokens * DIM, &|| int8.add_norm())?;
        bytes("int8 attended", 3 * tokens * DIM, &|| {
            int8.quantise_attended()
        })?;
        bytes("int8 activated", 3 * tokens * FFN, &|| {
            int8.quantise_activated()
        })?;
    }
    Ok(())
}

/// Prints what an operation takes, and how much of something it does a second.
fn show(
    compute: &Compute,
    (name, amount, unit): (&str, f64, &str),
    run: &dyn Fn() -> Result<(), GpuError>,
) -> Result<(), GpuError> {
    let seconds = time_for(compute, 0.5, run)?;
    let rate = amount / seconds;
    println!("  {name:<14} {:8.1} us  {rate:6.0} {unit}", 1e6 * seconds);
    Ok(())
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
