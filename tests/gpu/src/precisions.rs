//! Whole models in each precision of Hopper's kernels, whose widths are multiples of 128.

use crate::model::{checkpoint, make, request};
use crate::oracle::distance;
use crate::{ModelTest, Outcome};
use libtest_mimic::Failed;
use std::path::Path;
use zimage_checkpoint::{Checkpoint, Shape};
use zimage_core::executor::Executor as _;
use zimage_core::request::ImageRequest;
use zimage_cuda::{CudaExecutor, CudaOptions, GpuOptions, Precision};
use zimage_models::CandleExecutor;

pub(crate) const ALL: &[(&str, ModelTest)] = &[
    (
        "latents_of_each_step_are_near_the_references",
        latents_of_each_step_are_near_the_references,
    ),
    (
        "int8_gives_the_same_bytes_beside_others_and_after_a_restart",
        int8_gives_the_same_bytes,
    ),
    (
        "int8_is_refused_for_widths_that_it_does_not_compute",
        int8_is_refused_for_odd_widths,
    ),
];

const STEPS: u32 = 8;

/// How far latents may be from those in float32, relative to their length, after any step.
const MOST: [(Precision, f64); 2] = [(Precision::Bf16, 0.006), (Precision::Int8, 0.012)];

fn load(checkpoint: &Checkpoint, precision: Precision) -> Result<CudaExecutor, Failed> {
    let options = CudaOptions {
        gpu: GpuOptions::default(),
        precision,
        warm_up: vec![(128, 128)],
    };
    Ok(CudaExecutor::load(checkpoint, &options)?)
}

fn wide(folder: &Path) -> Result<Checkpoint, Failed> {
    checkpoint(folder, Shape::Wide)
}

fn of_steps(prompt: &str) -> ImageRequest {
    ImageRequest {
        num_inference_steps: STEPS,
        ..request(256, 192, prompt)
    }
}

fn latents_of_each_step_are_near_the_references() -> Outcome {
    let folder = tempfile::tempdir()?;
    let checkpoint = wide(folder.path())?;
    let request = of_steps("a fox in the snow");
    let mut cpu = CandleExecutor::load(&checkpoint)?;
    let slot = cpu.begin(&request)?.slot;
    let mut expected = Vec::new();
    for _ in 0..STEPS {
        cpu.step(&[slot])?;
        expected.push(cpu.latents(slot)?.values);
    }
    let mut wrong = Vec::new();
    for (precision, most) in MOST {
        let mut gpu = load(&checkpoint, precision)?;
        let slot = gpu.begin(&request)?.slot;
        for (step, expected) in expected.iter().enumerate() {
            gpu.step(&[slot])?;
            let distance = distance(&gpu.latents(slot)?, expected);
            println!("{precision:?}, step {step}: relative distance {distance:.4}");
            if distance.is_nan() || distance > most {
                wrong.push(format!("{precision:?}, step {step}: {distance:.4}"));
            }
        }
    }
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(format!("at most {MOST:?} is right: {}", wrong.join("; ")).into()),
    }
}

fn int8_gives_the_same_bytes() -> Outcome {
    let folder = tempfile::tempdir()?;
    let checkpoint = wide(folder.path())?;
    let (one, other) = (
        of_steps("a fox"),
        of_steps("quite another prompt, and a longer one"),
    );
    let mut images = Vec::new();
    for _ in 0..2 {
        let mut executor = load(&checkpoint, Precision::Int8)?;
        images.push(make(&mut executor, &one)?);
        images.push(make(&mut executor, &one)?);
        let slots = [executor.begin(&one)?.slot, executor.begin(&other)?.slot];
        for _ in 0..STEPS {
            executor.step(&slots)?;
        }
        images.push(executor.decode(slots[0])?);
    }
    match images.iter().all(|image| *image == images[0]) {
        true => Ok(()),
        false => Err("the same request gave other bytes".into()),
    }
}

fn int8_is_refused_for_odd_widths() -> Outcome {
    let folder = tempfile::tempdir()?;
    match load(&checkpoint(folder.path(), Shape::Odd)?, Precision::Int8) {
        Err(error)
            if error
                .message()
                .is_some_and(|text| text.contains("dim is 280")) =>
        {
            Ok(())
        }
        Err(error) => Err(error),
        Ok(_) => Err("a model of odd widths was loaded".into()),
    }
}
