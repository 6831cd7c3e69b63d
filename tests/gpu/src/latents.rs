//! The latents after each step, for tests/bench/truth.py.

use crate::Outcome;
use std::fs;
use std::path::Path;
use zimage_checkpoint::Checkpoint;
use zimage_core::executor::Executor as _;
use zimage_core::request::{CfgNormalization, ImageRequest, Noise};
use zimage_cuda::{CudaExecutor, CudaOptions, GpuOptions, Precision};

const WIDTH: u32 = 512;
const HEIGHT: u32 = 512;
const STEPS: u32 = 8;
const SEED: u64 = 7;
const PROMPT: &str = "a lighthouse on a cliff at dusk, waves below, in watercolour";

/// Computes one request and writes each step's latents, and what the request was.
pub(crate) fn write(model: &Path, folder: &Path) -> Outcome {
    fs::create_dir_all(folder)?;
    let checkpoint = Checkpoint::open(model)?;
    let options = CudaOptions {
        gpu: GpuOptions::default(),
        precision: Precision::Bf16,
        warm_up: vec![(HEIGHT, WIDTH)],
    };
    let mut executor = CudaExecutor::load(&checkpoint, &options)?;
    let request = ImageRequest {
        prompt: PROMPT.to_owned(),
        negative_prompt: String::new(),
        width: WIDTH,
        height: HEIGHT,
        num_inference_steps: STEPS,
        guidance_scale: 0.0,
        cfg_normalization: CfgNormalization::Off,
        cfg_truncation: 1.0,
        noise: Noise {
            seed: SEED,
            index: 0,
            count: 1,
        },
        init: None,
        references: Vec::new(),
        control: None,
    };
    let slot = executor.begin(&request)?.slot;
    for step in 0..STEPS {
        executor.step(&[slot])?;
        let latents = executor.latents(slot)?;
        let bytes: Vec<u8> = latents
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        fs::write(folder.join(format!("{step}.f32")), bytes)?;
    }
    let description = format!(
        "{{\"prompt\": {PROMPT:?}, \"width\": {WIDTH}, \"height\": {HEIGHT}, \"num_inference_steps\": {STEPS}, \"seed\": {SEED}}}\n"
    );
    fs::write(folder.join("request.json"), description)?;
    Ok(())
}
