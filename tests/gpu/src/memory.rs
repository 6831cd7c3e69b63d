//! The GPU's memory in use after each of many requests of mixed sizes: `--memory MODEL REQUESTS`.

use crate::Outcome;
use crate::model::{make, request};
use std::path::Path;
use zimage_checkpoint::Checkpoint;
use zimage_core::request::ImageRequest;
use zimage_cuda::{CudaExecutor, CudaOptions, GpuOptions};

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

/// Fails when memory grows once every size and prompt was there. It is not the same after every request: up to 32 sizes'
/// graphs are kept, and all of them are dropped with the memory of a large request.
pub(crate) fn mixed(model: &Path, count: usize) -> Outcome {
    let options = CudaOptions {
        gpu: GpuOptions::default(),
        memory_limit: None,
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
    }
    let different = SIZES.len() * WORDS.len();
    if count <= different {
        return Err(format!("at least {} requests show something", different + 1).into());
    }
    let (first, later) = used.split_at(different);
    let range = |used: &[usize]| used.iter().copied().min().zip(used.iter().copied().max());
    println!(
        "{count} requests; bytes in use, least and most, after each of the first {different}: {:?}, and after the others: {:?}",
        range(first),
        range(later)
    );
    match later.iter().max() > first.iter().max() {
        true => Err("the memory in use grows".into()),
        false => Ok(()),
    }
}
