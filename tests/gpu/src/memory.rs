//! The GPU's memory in use after each of many requests of mixed sizes: `--memory MODEL REQUESTS`.

use crate::Outcome;
use crate::model::{make, request};
use libtest_mimic::Failed;
use std::fs;
use std::path::Path;
use zimage_checkpoint::Checkpoint;
use zimage_core::request::ImageRequest;
use zimage_cuda::{CudaExecutor, CudaOptions, GpuOptions, Precision};

const SIZES: [(u32, u32); 7] = [
    (1024, 1024),
    (512, 512),
    (1536, 1024),
    (256, 256),
    (768, 1344),
    (2048, 1024),
    (640, 640),
];

const WORDS: [usize; 5] = [2, 20, 60, 1, 120];

/// What a request computes in has nothing to do with its number of steps, so two do.
const STEPS: u32 = 2;

/// Fails when a request leaves another figure than the last of the first round, which prepares each size.
pub(crate) fn mixed(model: &Path, count: usize) -> Outcome {
    let round = SIZES.len() * WORDS.len();
    if count <= round {
        return Err(format!("at least {} requests show something", round + 1).into());
    }
    let options = CudaOptions {
        gpu: GpuOptions::default(),
        precision: Precision::Bf16,
        warm_up: vec![(1024, 1024)],
    };
    let mut executor = CudaExecutor::load(&Checkpoint::open(model)?, &options)?;
    let mut used = Vec::new();
    for number in 0..count {
        let (width, height) = SIZES[number % SIZES.len()];
        let prompt = "fox ".repeat(WORDS[number % WORDS.len()]);
        let request = ImageRequest {
            num_inference_steps: STEPS,
            ..request(width, height, &prompt)
        };
        make(&mut executor, &request)?;
        used.push(executor.memory_used()?);
        if used.len().is_multiple_of(round) {
            println!("{}", told(&used[used.len() - round..])?);
        }
    }
    let first = used[round - 1];
    match used[round..].iter().find(|&&after| after != first) {
        None => Ok(()),
        Some(after) => {
            Err(format!("{after} bytes in use, and {first} after the first round").into())
        }
    }
}

/// What was in use after each request of a round, and the host memory of this process as the kernel words it.
fn told(round: &[usize]) -> Result<String, Failed> {
    let least = round.iter().min().copied().unwrap_or_default();
    let most = round.iter().max().copied().unwrap_or_default();
    let status = fs::read_to_string("/proc/self/status")?;
    let host = status.lines().find(|line| line.starts_with("VmRSS"));
    Ok(format!(
        "a round: {least} to {most} bytes of the GPU in use; {}",
        host.unwrap_or_default()
    ))
}
