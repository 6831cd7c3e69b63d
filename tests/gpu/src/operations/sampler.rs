//! Patches, steps and guidance.

use crate::Outcome;
use crate::oracle::{agree, download_bf16, mean_square, poisoned, random, upload_f32};
use zimage_cuda::Compute;
use zimage_cuda::ops::sampler::{Kept, Patches, euler_step, guide, keep, patchify, unpatchify};

pub(super) fn patches(compute: &Compute) -> Outcome {
    let gpu = &compute.gpu;
    let sizes = Patches {
        channels: 16,
        rows: 3,
        columns: 5,
    };
    let latents = random(1, sizes.numbers());
    let latents_gpu = upload_f32(gpu, &latents)?;
    let in_patches = poisoned(gpu, sizes.numbers() * 2)?;
    patchify(gpu, sizes, in_patches.region(), latents_gpu.region())?;
    let mut expected = Vec::new();
    for (row, column) in (0..3).flat_map(|row| (0..5).map(move |column| (row, column))) {
        for (y, x) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            for channel in 0..16 {
                expected.push(latents[(channel * 6 + 2 * row + y) * 10 + 2 * column + x]);
            }
        }
    }
    let actual = download_bf16(gpu, &in_patches, sizes.numbers())?;
    agree("patches", &actual, &expected, 0.0)?;
    let (exact, back) = (
        upload_f32(gpu, &expected)?,
        poisoned(gpu, sizes.numbers() * 4)?,
    );
    unpatchify(gpu, sizes, back.region(), exact.region())?;
    agree(
        "latents",
        &gpu.download(back.region(), sizes.numbers())?,
        &latents,
        0.0,
    )
}

pub(super) fn steps_and_guidance(compute: &Compute) -> Outcome {
    let gpu = &compute.gpu;
    let sizes = Patches {
        channels: 2,
        rows: 10,
        columns: 30,
    };
    let count = sizes.numbers();
    let (latents, prediction, negative) = (random(1, count), random(2, count), random(3, count));
    let on_gpu = upload_f32(gpu, &latents)?;
    let prediction_gpu = upload_f32(gpu, &prediction)?;
    euler_step(gpu, on_gpu.region(), prediction_gpu.region(), -0.125, count)?;
    let pairs = latents.iter().zip(&prediction);
    let expected: Vec<f32> = pairs
        .map(|(latent, value)| latent - -0.125 * value)
        .collect();
    agree(
        "a step",
        &gpu.download(on_gpu.region(), count)?,
        &expected,
        0.0,
    )?;

    let negative_gpu = upload_f32(gpu, &negative)?;
    for most in [0.0, 1.0, 100.0] {
        let positive_gpu = upload_f32(gpu, &prediction)?;
        let regions = (positive_gpu.region(), negative_gpu.region());
        guide(gpu, regions.0, regions.1, (3.0, most), count)?;
        let pairs = prediction.iter().zip(&negative);
        let mut expected: Vec<f32> = pairs.map(|(p, n)| p + 3.0 * (p - n)).collect();
        let length = |values: &[f32]| mean_square(values).sqrt();
        let limit = length(&prediction) * most;
        if most > 0.0 && length(&expected) > limit {
            let factor = limit / length(&expected);
            expected.iter_mut().for_each(|value| *value *= factor);
        }
        let actual = gpu.download(positive_gpu.region(), count)?;
        agree(
            &format!("guidance, clamped to {most}"),
            &actual,
            &expected,
            1e-5,
        )?;
    }

    let mask: Vec<f32> = (0..count / 2)
        .map(|pixel| f32::from(u8::from(pixel % 3 == 0)))
        .collect();
    let mask_gpu = upload_f32(gpu, &mask)?;
    let on_gpu = upload_f32(gpu, &latents)?;
    let kept = Kept {
        image: prediction_gpu.region(),
        noise: negative_gpu.region(),
        mask: mask_gpu.region(),
    };
    keep(gpu, sizes, on_gpu.region(), kept, 0.25)?;
    let value = |at: usize| match mask[at % mask.len()] {
        0.0 => 0.25 * negative[at] + 0.75 * prediction[at],
        _ => latents[at],
    };
    let expected: Vec<f32> = (0..count).map(value).collect();
    agree(
        "what is kept",
        &gpu.download(on_gpu.region(), count)?,
        &expected,
        1e-7,
    )
}
