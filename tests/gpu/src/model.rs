//! Whole models against the reference on the CPU.

use crate::oracle::distance;
use crate::{ModelTest, Outcome};
use libtest_mimic::Failed;
use std::path::Path;
use std::sync::Arc;
use zimage_checkpoint::{Checkpoint, Shape, make_model};
use zimage_core::executor::{Executor, ExecutorError};
use zimage_core::pixels::Pixels;
use zimage_core::request::{CfgNormalization, ImageRequest, InitImage, Noise};
use zimage_cuda::{
    CudaExecutor, CudaOptions, GpuOptions, Precision, decoded_in_strips, eager_forwards,
};
use zimage_models::CandleExecutor;

pub(crate) const ALL: &[(&str, ModelTest)] = &[
    ("images_are_the_references", images_are_the_references),
    (
        "a_batch_gives_each_request_its_own_image",
        a_batch_gives_each_request_its_own_image,
    ),
    (
        "a_restart_with_the_same_cache_gives_the_same_bytes",
        a_restart_gives_the_same_bytes,
    ),
    (
        "memory_returns_to_where_it_was",
        memory_returns_to_where_it_was,
    ),
    (
        "an_image_for_which_memory_is_short_is_decoded_in_strips",
        an_image_for_which_memory_is_short_is_decoded_in_strips,
    ),
    (
        "a_limit_on_memory_refuses_what_does_not_fit",
        a_limit_on_memory_refuses_what_does_not_fit,
    ),
    (
        "a_limit_below_the_weights_is_told_at_the_start",
        a_limit_below_the_weights_is_told_at_the_start,
    ),
    ("every_forward_was_replayed", every_forward_was_replayed),
];

pub(crate) fn request(width: u32, height: u32, prompt: &str) -> ImageRequest {
    ImageRequest {
        num_inference_steps: 4,
        noise: Noise {
            seed: 7,
            index: 0,
            count: 1,
        },
        ..ImageRequest::plain(prompt, (width, height))
    }
}

fn load_with(checkpoint: &Checkpoint, gpu: GpuOptions) -> Result<CudaExecutor, Failed> {
    let options = CudaOptions {
        gpu,
        precision: Precision::Bf16,
        warm_up: vec![(128, 128)],
    };
    Ok(CudaExecutor::load(checkpoint, &options)?)
}

fn load(checkpoint: &Checkpoint) -> Result<CudaExecutor, Failed> {
    load_with(checkpoint, GpuOptions::default())
}

/// With this many bytes of the GPU's memory at most.
fn load_within(checkpoint: &Checkpoint, limit: usize) -> Result<CudaExecutor, Failed> {
    let gpu = GpuOptions {
        memory_limit: Some(limit),
        ..GpuOptions::default()
    };
    load_with(checkpoint, gpu)
}

pub(crate) fn checkpoint(folder: &Path, shape: Shape) -> Result<Checkpoint, Failed> {
    make_model(folder, shape, 7)?;
    Ok(Checkpoint::open(folder)?)
}

pub(crate) fn make(executor: &mut dyn Executor, request: &ImageRequest) -> Result<Pixels, Failed> {
    Ok(executor.generate(request, &mut |_, _| ())?)
}

fn levels(pixels: &Pixels) -> Vec<f32> {
    pixels.rgb().iter().map(|&level| f32::from(level)).collect()
}

/// A picture that is no noise.
fn picture(width: u32, height: u32) -> Result<Arc<Pixels>, Failed> {
    let pixel = |at: u32| [(at % width * 3) as u8, (at / width * 2) as u8, 90];
    let rgb = (0..width * height).flat_map(pixel).collect();
    Ok(Arc::new(Pixels::new(width, height, rgb)?))
}

/// bfloat16 keeps eight bits: images of models of a few layers differ by a few of 256 levels.
fn images_are_the_references() -> Outcome {
    let long = "many words ".repeat(30);
    for shape in [Shape::Tiny, Shape::Odd] {
        let folder = tempfile::tempdir()?;
        let checkpoint = checkpoint(folder.path(), shape)?;
        let (mut gpu, mut cpu) = (load(&checkpoint)?, CandleExecutor::load(&checkpoint)?);
        let mut guided = request(96, 160, "a fox");
        guided.guidance_scale = 3.0;
        guided.negative_prompt = "a dog in the rain, drawn with chalk".to_owned();
        guided.cfg_normalization = CfgNormalization::Clamp(1.0);
        let mut start = request(128, 64, "a fox");
        start.init = Some(InitImage {
            pixels: picture(128, 64)?,
            strength: 0.75,
            mask: None,
        });
        let mut masked = start.clone();
        let half = |at: u32| [if at % 128 < 64 { 255 } else { 0 }; 3];
        let mask = Pixels::new(128, 64, (0..128 * 64).flat_map(half).collect())?;
        masked.init = masked.init.map(|init| InitImage {
            mask: Some(Arc::new(mask)),
            ..init
        });
        for (what, request) in [
            ("square", request(128, 128, "a fox")),
            ("tall", request(48, 176, "a fox in the snow")),
            ("long", request(64, 64, &long)),
            ("guided", guided),
            ("started from an image", start),
            ("inpainted", masked),
        ] {
            let (actual, expected) = (make(&mut gpu, &request)?, make(&mut cpu, &request)?);
            let (actual, expected) = (levels(&actual), levels(&expected));
            let pairs = actual.iter().zip(&expected);
            let mean = pairs.map(|(a, b)| (a - b).abs()).sum::<f32>() / actual.len() as f32;
            let distance = distance(&actual, &expected);
            println!("{shape} {what}: mean difference {mean:.2} levels, relative {distance:.4}");
            if mean.is_nan() || mean > 4.0 {
                return Err(format!("{shape} {what}: {mean:.2} levels from the reference").into());
            }
        }
    }
    Ok(())
}

fn a_batch_gives_each_request_its_own_image() -> Outcome {
    let folder = tempfile::tempdir()?;
    let mut executor = load(&checkpoint(folder.path(), Shape::Tiny)?)?;
    let requests = [
        request(128, 128, "a fox"),
        request(
            128,
            128,
            "another prompt, of quite another length than the first one has",
        ),
        request(64, 96, "a third"),
    ];
    let mut alone = Vec::new();
    for request in &requests {
        alone.push(make(&mut executor, request)?);
    }
    let mut slots = Vec::new();
    for request in &requests {
        slots.push(executor.begin(request)?.slot);
    }
    for _ in 0..4 {
        executor.step(&slots)?;
    }
    for (slot, alone) in slots.iter().zip(&alone) {
        if executor.decode(*slot)? != *alone {
            return Err("an image of a batch is another one than alone".into());
        }
        executor.release(*slot);
    }
    Ok(())
}

fn a_restart_gives_the_same_bytes() -> Outcome {
    let folder = tempfile::tempdir()?;
    let cache = tempfile::tempdir()?;
    let checkpoint = checkpoint(folder.path(), Shape::Tiny)?;
    let request = request(256, 256, "a fox");
    let mut images = Vec::new();
    for _ in 0..2 {
        let gpu = GpuOptions {
            cache: Some(cache.path().to_owned()),
            ..GpuOptions::default()
        };
        let mut executor = load_with(&checkpoint, gpu)?;
        images.push(make(&mut executor, &request)?);
        images.push(make(&mut executor, &request)?);
    }
    match images.iter().all(|image| *image == images[0]) {
        true => Ok(()),
        false => Err("the same request gave other bytes".into()),
    }
}

fn memory_returns_to_where_it_was() -> Outcome {
    let folder = tempfile::tempdir()?;
    let mut executor = load(&checkpoint(folder.path(), Shape::Tiny)?)?;
    let sizes = [(128, 128), (64, 192), (256, 256), (512, 256)];
    let prompts = [
        "a fox",
        "a much longer prompt that has more words than the other one",
        "",
    ];
    let (mut used, mut images) = (Vec::new(), Vec::new());
    for _ in 0..6 {
        let mut round = Vec::new();
        for (width, height) in sizes {
            for prompt in prompts {
                round.push(make(&mut executor, &request(width, height, prompt))?);
                used.push(executor.memory_used()?);
            }
        }
        images.push(round);
    }
    // The first round fills caches; from then on nothing grows, whatever the size was.
    let after_first = &used[sizes.len() * prompts.len() - 1..];
    if after_first.iter().any(|bytes| *bytes != after_first[0]) {
        return Err(format!("bytes in use after each request: {used:?}").into());
    }
    match images.iter().all(|round| *round == images[0]) {
        true => Ok(()),
        false => Err("the same request gave other bytes after one of another size".into()),
    }
}

/// The most levels of 255 by which a pixel may change: convolutions of fewer rows may add up in another order.
const STRIPS_CHANGE: u8 = 2;

fn an_image_for_which_memory_is_short_is_decoded_in_strips() -> Outcome {
    let folder = tempfile::tempdir()?;
    let checkpoint = checkpoint(folder.path(), Shape::Tiny)?;
    let request = request(1024, 768, "a fox");
    let mut executor = load(&checkpoint)?;
    let whole = make(&mut executor, &request)?;
    let used = executor.memory_used()?;
    drop(executor);
    let before = decoded_in_strips();
    for more in 3..9 {
        let Ok(mut executor) = load_within(&checkpoint, used + (1 << (20 + more))) else {
            continue;
        };
        let pixels = match executor.begin(&request) {
            Ok(begun) => {
                executor.release(begun.slot);
                make(&mut executor, &request)?
            }
            Err(_) => continue,
        };
        if decoded_in_strips() == before {
            return Err("there is no limit between too little memory and enough".into());
        }
        let pairs = pixels.rgb().iter().zip(whole.rgb());
        let differences: Vec<u8> = pairs.map(|(one, other)| one.abs_diff(*other)).collect();
        let different = differences.iter().filter(|&&levels| levels > 0).count();
        let most = differences.iter().max().copied().unwrap_or(0);
        println!(
            "in strips: {different} of {} levels differ, by {most} at most",
            differences.len()
        );
        return match most {
            0..=STRIPS_CHANGE => Ok(()),
            _ => Err(format!("a level differs by {most} from that of the whole image").into()),
        };
    }
    Err("no limit lets the image through".into())
}

fn a_limit_on_memory_refuses_what_does_not_fit() -> Outcome {
    let folder = tempfile::tempdir()?;
    let checkpoint = checkpoint(folder.path(), Shape::Tiny)?;
    let used = load(&checkpoint)?.memory_used()?;
    // A second executor of a process needs some megabytes more than the first.
    let mut limits = (20..30).map(|bits| used + (1 << bits));
    let mut executor = limits
        .find_map(|limit| load_within(&checkpoint, limit).ok())
        .ok_or("no limit is enough for what was in use before")?;
    make(&mut executor, &request(128, 128, "a fox"))?;
    match executor.begin(&request(2048, 2048, "a fox")) {
        Err(ExecutorError::OutOfMemory(_)) => {}
        other => return Err(format!("a request that does not fit gives {other:?}").into()),
    }
    make(&mut executor, &request(128, 128, "a fox"))?;
    Ok(())
}

fn a_limit_below_the_weights_is_told_at_the_start() -> Outcome {
    let folder = tempfile::tempdir()?;
    let checkpoint = checkpoint(folder.path(), Shape::Tiny)?;
    match load_within(&checkpoint, 1 << 20) {
        Err(error)
            if error
                .message()
                .is_some_and(|text| text.contains("the limit is 1048576")) =>
        {
            Ok(())
        }
        Err(error) => Err(error),
        Ok(_) => Err("a megabyte was enough for the weights".into()),
    }
}

fn every_forward_was_replayed() -> Outcome {
    let folder = tempfile::tempdir()?;
    make(
        &mut load(&checkpoint(folder.path(), Shape::Tiny)?)?,
        &request(128, 64, "a fox"),
    )?;
    match eager_forwards() {
        0 => Ok(()),
        count => Err(format!("{count} forwards of this process ran call by call").into()),
    }
}
