//! Norms over rows and over groups of channels.

use super::ONCE;
use crate::Outcome;
use crate::oracle::{
    Stored, agree, download_bf16, is_rotated, mean_square, poisoned, random, rounded, silu,
    upload_bf16, upload_f32,
};
use zimage_cuda::ops::group_norm::{Groups, group_norm};
use zimage_cuda::ops::norm::{Added, Next, Rows, add_norm, layer_norm, rms_norm};
use zimage_cuda::{Compute, Format, Gpu, Matrix, ROTATED};

pub(super) fn norms(compute: &Compute) -> Outcome {
    let gpu = &compute.gpu;
    for (count, width) in [(5, 64), (3, 280), (17, 2560), (9, 3840)] {
        let rows = Rows {
            count,
            width,
            eps: 1e-5,
        };
        let (x, weight, scale) = (random(1, count * width), random(2, width), random(3, width));
        let on_gpu = (
            upload_bf16(gpu, &x)?,
            upload_bf16(gpu, &weight)?,
            upload_f32(gpu, &scale)?,
        );
        let y = poisoned(gpu, count * width * 2)?;
        let scales = Some(on_gpu.2.region());
        rms_norm(
            gpu,
            rows,
            Matrix::bf16(y.region(), (count, width))?,
            on_gpu.0.region(),
            on_gpu.1.region(),
            scales,
        )?;
        let expected: Vec<f32> = x
            .chunks(width)
            .flat_map(|row| {
                let r = (mean_square(row) + 1e-5).sqrt().recip();
                let of_row = row.iter().zip(&weight).zip(&scale);
                of_row
                    .map(move |((x, w), s)| x * r * w * s)
                    .collect::<Vec<_>>()
            })
            .collect();
        agree(
            "rms norm",
            &download_bf16(gpu, &y, count * width)?,
            &expected,
            ONCE,
        )?;
        if width.is_multiple_of(ROTATED) {
            let y = Stored::poisoned(gpu, Format::S8, (count, width))?;
            let (x, weight) = (on_gpu.0.region(), on_gpu.1.region());
            rms_norm(gpu, rows, y.matrix()?, x, weight, scales)?;
            are_rotated(gpu, "rms norm", &y, &expected)?;
        }

        layer_norm(gpu, rows, y.region(), on_gpu.0.region(), on_gpu.2.region())?;
        let expected: Vec<f32> = x
            .chunks(width)
            .flat_map(|row| {
                let mean = row.iter().sum::<f32>() / width as f32;
                let centred: Vec<f32> = row.iter().map(|x| x - mean).collect();
                let r = (mean_square(&centred) + 1e-5).sqrt().recip();
                centred
                    .iter()
                    .zip(&scale)
                    .map(|(x, s)| x * r * s)
                    .collect::<Vec<_>>()
            })
            .collect();
        agree(
            "layer norm",
            &download_bf16(gpu, &y, count * width)?,
            &expected,
            ONCE,
        )?;
    }
    Ok(())
}

/// Rows of integers are what the host makes of the same numbers: a sum's order may move one that is halfway between two.
fn are_rotated(gpu: &Gpu, what: &str, y: &Stored, expected: &[f32]) -> Outcome {
    let (numbers, scales) = (y.numbers(gpu)?, y.scales(gpu)?);
    let width = expected.len() / scales.len();
    let rows = numbers
        .chunks(width)
        .zip(scales)
        .zip(expected.chunks(width));
    for (row, (actual, expected)) in rows.enumerate() {
        is_rotated(
            &format!("{what} in integers, row {row}"),
            actual,
            expected,
            0.51,
        )?;
    }
    Ok(())
}

pub(super) fn addition_and_norm(compute: &Compute) -> Outcome {
    let gpu = &compute.gpu;
    let (count, width) = (7, 3840);
    let rows = Rows {
        count,
        width,
        eps: 1e-5,
    };
    let (x, h) = (random(1, count * width), random(2, count * width));
    let [weight, gate, next_weight, next_scale] = [3, 4, 5, 6].map(|seed| random(seed, width));
    let (x_gpu, h_gpu) = (upload_bf16(gpu, &x)?, upload_bf16(gpu, &h)?);
    let (weight_gpu, next_gpu) = (upload_bf16(gpu, &weight)?, upload_bf16(gpu, &next_weight)?);
    let (gate_gpu, scale_gpu) = (upload_f32(gpu, &gate)?, upload_f32(gpu, &next_scale)?);
    let y = poisoned(gpu, count * width * 2)?;
    let added = Added {
        h: h_gpu.region(),
        weight: Some(weight_gpu.region()),
        gate: Some(gate_gpu.region()),
    };
    let next = Next {
        y: Matrix::bf16(y.region(), (count, width))?,
        weight: next_gpu.region(),
        scale: Some(scale_gpu.region()),
    };
    add_norm(gpu, rows, x_gpu.region(), added, Some(next))?;
    let mut sums = Vec::new();
    let mut normed = Vec::new();
    for (x, h) in x.chunks(width).zip(h.chunks(width)) {
        let r = (mean_square(h) + 1e-5).sqrt().recip();
        let of_h = h
            .iter()
            .zip(&weight)
            .zip(&gate)
            .map(|((h, w), g)| h * r * w * g);
        let sum: Vec<f32> = x.iter().zip(of_h).map(|(x, h)| rounded(x + h)).collect();
        let r = (mean_square(&sum) + 1e-5).sqrt().recip();
        let of_sum = sum.iter().zip(&next_weight).zip(&next_scale);
        normed.extend(of_sum.map(|((x, w), s)| x * r * w * s));
        sums.extend(sum);
    }
    agree(
        "x",
        &download_bf16(gpu, &x_gpu, count * width)?,
        &sums,
        ONCE,
    )?;
    agree("y", &download_bf16(gpu, &y, count * width)?, &normed, ONCE)?;

    // The same in integers, whose kernel adds squares up in another order: that moves few roundings of x. What y is compared
    // with is made of the x that the GPU has rounded.
    let (again, y) = (
        upload_bf16(gpu, &x)?,
        Stored::poisoned(gpu, Format::S8, (count, width))?,
    );
    let integers = Next {
        y: y.matrix()?,
        ..next
    };
    add_norm(gpu, rows, again.region(), added, Some(integers))?;
    let before = download_bf16(gpu, &x_gpu, count * width)?;
    let sums = download_bf16(gpu, &again, count * width)?;
    agree("x beside integers", &sums, &before, 1e-4)?;
    let mut normed = Vec::new();
    for sum in sums.chunks(width) {
        let r = (mean_square(sum) + 1e-5).sqrt().recip();
        let of_sum = sum.iter().zip(&next_weight).zip(&next_scale);
        normed.extend(of_sum.map(|((x, w), s)| x * r * w * s));
    }
    are_rotated(gpu, "sum and norm", &y, &normed)
}

pub(super) fn group_norms(compute: &Compute) -> Outcome {
    let gpu = &compute.gpu;
    for (height, width, channels, groups) in [(7, 7, 12, 6), (32, 32, 36, 6), (50, 100, 512, 32)] {
        let pixels = height * width;
        let sizes = Groups {
            height,
            width,
            channels,
            stride: channels.next_multiple_of(8),
            groups,
        };
        let mut x = random(1, pixels * sizes.stride);
        for pixel in x.chunks_mut(sizes.stride) {
            pixel[channels..].fill(0.0);
        }
        let [mut weight, mut bias] = [2, 3].map(|seed| random(seed, channels));
        let per_group = channels / groups;
        let statistics: Vec<(f32, f32)> = (0..groups)
            .map(|group| {
                let of_pixel = |pixel: &[f32]| pixel[group * per_group..][..per_group].to_vec();
                let values: Vec<f32> = x.chunks(sizes.stride).flat_map(of_pixel).collect();
                let mean = values.iter().sum::<f32>() / values.len() as f32;
                let centred: Vec<f32> = values.iter().map(|value| value - mean).collect();
                (mean, (mean_square(&centred) + 1e-6).sqrt().recip())
            })
            .collect();
        let norm = |(at, value): (usize, &f32)| {
            let channel = at % sizes.stride;
            if channel >= channels {
                return 0.0;
            }
            let (mean, r) = statistics[channel / per_group];
            silu((value - mean) * r * weight[channel] + bias[channel])
        };
        let expected: Vec<f32> = x.iter().enumerate().map(norm).collect();
        weight.resize(sizes.stride, 0.0);
        bias.resize(sizes.stride, 0.0);
        let x_gpu = upload_bf16(gpu, &x)?;
        let (weight, bias) = (upload_f32(gpu, &weight)?, upload_f32(gpu, &bias)?);
        let scratch = poisoned(gpu, sizes.scratch())?;
        let images = (x_gpu.region(), x_gpu.region());
        let weights = (weight.region(), bias.region());
        group_norm(gpu, sizes, images, weights, scratch.region(), true)?;
        let actual = download_bf16(gpu, &x_gpu, x.len())?;
        agree(&format!("{sizes:?}"), &actual, &expected, ONCE)?;
    }
    Ok(())
}
