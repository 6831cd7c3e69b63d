//! Each operation against the host's arithmetic.

use crate::OperationTest;
use crate::Outcome;
use crate::oracle::{agree, download_bf16, poisoned, random, rounded, upload_bf16, upload_f32};
use zimage_cuda::Compute;
use zimage_cuda::dnn::{Attention, Convolution};
use zimage_cuda::matmul::{Output, Product};
use zimage_cuda::ops::attention::{plain, softmax};
use zimage_cuda::ops::embed::{gather, swiglu};
use zimage_cuda::ops::group_norm::{Groups, group_norm};
use zimage_cuda::ops::image::{Latents, from_latents, to_bytes, upsample};
use zimage_cuda::ops::norm::{Added, Next, Rows, add_norm, layer_norm, rms_norm};
use zimage_cuda::ops::rope::{Heads, Pairs, norm_and_rotate};
use zimage_cuda::ops::sampler::{Kept, Patches, euler_step, guide, keep, patchify, unpatchify};

/// Rounding once to bfloat16.
const ONCE: f64 = 3e-3;

/// Rounding several times on the way.
const SEVERAL: f64 = 8e-3;

pub(crate) const ALL: &[(&str, OperationTest)] = &[
    ("norms", norms),
    ("addition_and_norm", addition_and_norm),
    ("rotary_embedding", rotary_embedding),
    ("activations", activations),
    ("rows_of_a_table", rows_of_a_table),
    ("softmax_of_rows", softmax_of_rows),
    ("matrix_products", matrix_products),
    ("attention_of_every_shape", attention_of_every_shape),
    ("convolutions", convolutions),
    ("group_norms", group_norms),
    ("patches", patches),
    ("steps_and_guidance", steps_and_guidance),
    ("images", images),
];

fn mean_square(row: &[f32]) -> f32 {
    row.iter().map(|x| x * x).sum::<f32>() / row.len() as f32
}

fn norms(compute: &Compute) -> Outcome {
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
            y.region(),
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

fn addition_and_norm(compute: &Compute) -> Outcome {
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
        y: y.region(),
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
    agree("y", &download_bf16(gpu, &y, count * width)?, &normed, ONCE)
}

fn rotary_embedding(compute: &Compute) -> Outcome {
    let gpu = &compute.gpu;
    for (pairs, kv_heads, width) in [
        (Pairs::Interleaved, 3, 128),
        (Pairs::Interleaved, 3, 40),
        (Pairs::Halves, 1, 128),
        (Pairs::Halves, 1, 24),
    ] {
        let heads = Heads {
            tokens: 6,
            heads: 3,
            kv_heads,
            width,
        };
        let rows = random(1, heads.tokens * heads.row());
        let (q, k) = (random(2, width), random(3, width));
        let angles: Vec<f32> = random(4, heads.tokens * width / 2);
        let table: Vec<f32> = angles.iter().flat_map(|a| [a.cos(), a.sin()]).collect();
        let rows_gpu = upload_bf16(gpu, &rows)?;
        let (q_gpu, k_gpu) = (upload_bf16(gpu, &q)?, upload_bf16(gpu, &k)?);
        let table_gpu = upload_f32(gpu, &table)?;
        let weights = Some((q_gpu.region(), k_gpu.region(), 1e-5));
        norm_and_rotate(
            gpu,
            heads,
            pairs,
            rows_gpu.region(),
            weights,
            table_gpu.region(),
        )?;
        let mut expected = rows.clone();
        for (token, row) in expected.chunks_mut(heads.row()).enumerate() {
            for (number, head) in row.chunks_mut(width).take(3 + kv_heads).enumerate() {
                let weight = if number < 3 { &q } else { &k };
                let r = (mean_square(head) + 1e-5).sqrt().recip();
                let normed: Vec<f32> = head.iter().zip(weight).map(|(x, w)| x * r * w).collect();
                for i in 0..width / 2 {
                    let (sin, cos) = angles[token * width / 2 + i].sin_cos();
                    let (a, b) = match pairs {
                        Pairs::Interleaved => (2 * i, 2 * i + 1),
                        Pairs::Halves => (i, i + width / 2),
                    };
                    head[a] = normed[a] * cos - normed[b] * sin;
                    head[b] = normed[a] * sin + normed[b] * cos;
                }
            }
        }
        let actual = download_bf16(gpu, &rows_gpu, rows.len())?;
        agree(&format!("{pairs:?} {width}"), &actual, &expected, ONCE)?;
    }
    Ok(())
}

fn silu(x: f32) -> f32 {
    x / (1.0 + (-x).exp())
}

fn activations(compute: &Compute) -> Outcome {
    let gpu = &compute.gpu;
    for (rows, width) in [(3, 752), (5, 10_240)] {
        let x = random(1, rows * 2 * width);
        let (x_gpu, y) = (upload_bf16(gpu, &x)?, poisoned(gpu, rows * width * 2)?);
        swiglu(gpu, y.region(), x_gpu.region(), (rows, width))?;
        let of_row = |row: &[f32]| -> Vec<f32> {
            let (gate, up) = row.split_at(width);
            gate.iter()
                .zip(up)
                .map(|(gate, up)| silu(*gate) * up)
                .collect()
        };
        let expected: Vec<f32> = x.chunks(2 * width).flat_map(of_row).collect();
        agree(
            "swiglu",
            &download_bf16(gpu, &y, rows * width)?,
            &expected,
            ONCE,
        )?;
    }
    Ok(())
}

fn rows_of_a_table(compute: &Compute) -> Outcome {
    let gpu = &compute.gpu;
    let (width, ids) = (72, [3u32, 0, 7]);
    let table = random(1, 8 * width);
    let table_gpu = upload_bf16(gpu, &table)?;
    let (y, scratch) = (poisoned(gpu, 5 * width * 2)?, gpu.allocate(64)?);
    gather(
        gpu,
        y.region(),
        table_gpu.region(),
        &ids,
        scratch.region(),
        (5, width),
    )?;
    let of_id = |&id: &u32| table[id as usize * width..][..width].to_vec();
    let mut expected: Vec<f32> = ids.iter().flat_map(of_id).collect();
    expected.resize(5 * width, 0.0);
    agree("rows", &download_bf16(gpu, &y, 5 * width)?, &expected, 0.0)?;
    let beyond = gather(
        gpu,
        y.region(),
        table_gpu.region(),
        &[8],
        scratch.region(),
        (1, width),
    );
    match beyond {
        Err(error) if error.to_string().contains("token 8") => Ok(()),
        other => Err(format!("a token that is no row gives {other:?}").into()),
    }
}

fn softmax_of_rows(compute: &Compute) -> Outcome {
    let gpu = &compute.gpu;
    for (rows, width, stride) in [(4, 60, 64), (2, 5000, 5000)] {
        let x: Vec<f32> = random(1, rows * stride).iter().map(|x| 9.0 * x).collect();
        let (x_gpu, y) = (upload_f32(gpu, &x)?, poisoned(gpu, rows * stride * 2)?);
        softmax(gpu, (rows, width, stride), y.region(), x_gpu.region(), 0.5)?;
        let of_row = |row: &[f32]| {
            let most = row[..width].iter().copied().fold(f32::MIN, f32::max);
            let mut weights: Vec<f32> = row[..width]
                .iter()
                .map(|x| ((x - most) * 0.5).exp())
                .collect();
            let sum: f32 = weights.iter().sum();
            weights.iter_mut().for_each(|weight| *weight /= sum);
            weights.resize(stride, 0.0);
            weights
        };
        let expected: Vec<f32> = x.chunks(stride).flat_map(of_row).collect();
        agree(
            "softmax",
            &download_bf16(gpu, &y, rows * stride)?,
            &expected,
            ONCE,
        )?;
    }
    Ok(())
}

fn matrix_products(compute: &Compute) -> Outcome {
    let gpu = &compute.gpu;
    for (m, n, k) in [
        (1, 1024, 256),
        (33, 72, 200),
        (96, 840, 280),
        (512, 2048, 2048),
    ] {
        let (x, weight, bias) = (random(1, m * k), random(2, n * k), random(3, n));
        let mut expected = vec![0f32; m * n];
        for (row, y) in x.chunks(k).zip(expected.chunks_mut(n)) {
            for ((y, weight), bias) in y.iter_mut().zip(weight.chunks(k)).zip(&bias) {
                let products = row
                    .iter()
                    .zip(weight)
                    .map(|(a, b)| f64::from(*a) * f64::from(*b));
                *y = (products.sum::<f64>() + f64::from(*bias)) as f32;
            }
        }
        let (x, weight) = (upload_bf16(gpu, &x)?, upload_bf16(gpu, &weight)?);
        let operands = (x.region(), weight.region());
        for output in [Output::Bf16, Output::F32] {
            let product = Product { m, n, k, output };
            let y = poisoned(gpu, m * n * 4)?;
            let on_gpu = match output {
                Output::Bf16 => upload_bf16(gpu, &bias)?,
                Output::F32 => upload_f32(gpu, &bias)?,
            };
            let bias = Some(on_gpu.region());
            compute
                .matmuls
                .run(gpu, product, y.region(), operands, bias)?;
            let (actual, most) = match output {
                Output::Bf16 => (download_bf16(gpu, &y, m * n)?, ONCE),
                Output::F32 => (gpu.download(y.region(), m * n)?, 1e-5),
            };
            agree(&format!("{product:?}"), &actual, &expected, most)?;
        }
    }
    Ok(())
}

fn attention_of_every_shape(compute: &Compute) -> Outcome {
    let gpu = &compute.gpu;
    for (tokens, heads, kv_heads, width, causal) in [
        (64, 3, 3, 32, false),
        (96, 7, 7, 40, false),
        (64, 6, 2, 24, true),
        (96, 8, 2, 128, true),
        (1056, 4, 4, 128, false),
    ] {
        let sizes = Heads {
            tokens,
            heads,
            kv_heads,
            width,
        };
        let rows = random(1, tokens * sizes.row());
        let expected = attend(sizes, &rows, causal);
        let rows = upload_bf16(gpu, &rows)?;
        let y = poisoned(gpu, expected.len() * 2)?;
        let attention = Attention {
            heads: sizes,
            causal,
        };
        let what = format!("{attention:?}");
        compute
            .dnn
            .attend(gpu, attention, y.region(), rows.region())?;
        agree(
            &what,
            &download_bf16(gpu, &y, expected.len())?,
            &expected,
            SEVERAL,
        )?;
        let y = poisoned(gpu, expected.len() * 2)?;
        plain(gpu, sizes, y.region(), rows.region(), causal)?;
        let what = format!("the engine's own, {what}");
        agree(
            &what,
            &download_bf16(gpu, &y, expected.len())?,
            &expected,
            SEVERAL,
        )?;
    }
    Ok(())
}

fn attend(sizes: Heads, rows: &[f32], causal: bool) -> Vec<f32> {
    let Heads {
        tokens,
        heads,
        kv_heads,
        width,
    } = sizes;
    let part = |token: usize, head: usize| &rows[token * sizes.row() + head * width..][..width];
    let mut y = vec![0f32; tokens * heads * width];
    for token in 0..tokens {
        for head in 0..heads {
            let kv_head = head / (heads / kv_heads);
            let seen = if causal { token + 1 } else { tokens };
            let q = part(token, head);
            let score = |key: usize| {
                let k = part(key, heads + kv_head);
                q.iter().zip(k).map(|(a, b)| a * b).sum::<f32>() / (width as f32).sqrt()
            };
            let scores: Vec<f32> = (0..seen).map(score).collect();
            let most = scores.iter().copied().fold(f32::MIN, f32::max);
            let weights: Vec<f32> = scores.iter().map(|score| (score - most).exp()).collect();
            let sum: f32 = weights.iter().sum();
            let out = &mut y[(token * heads + head) * width..][..width];
            for (key, weight) in weights.iter().enumerate() {
                let v = part(key, heads + kv_heads + kv_head);
                for (y, v) in out.iter_mut().zip(v) {
                    *y += weight / sum * v;
                }
            }
        }
    }
    y
}

fn convolutions(compute: &Compute) -> Outcome {
    let gpu = &compute.gpu;
    for (kernel, residual, halving) in [
        (3, false, false),
        (3, true, false),
        (1, false, false),
        (3, false, true),
    ] {
        let convolution = Convolution {
            height: 12,
            width: 20,
            inputs: 16,
            outputs: 24,
            kernel,
            residual,
            halving,
        };
        let (rows, columns) = convolution.output_size();
        let x = random(1, 12 * 20 * 16);
        let weight = random(2, 24 * kernel * kernel * 16);
        let (bias, added) = (random(3, 24), random(4, rows * columns * 24));
        let expected = convolve(convolution, &x, &weight, |at, output| {
            bias[output] + if residual { added[at] } else { 0.0 }
        });
        let [x, weight, bias, added] =
            [&x, &weight, &bias, &added].map(|values| upload_bf16(gpu, values));
        let (x, weight, bias, added) = (x?, weight?, bias?, added?);
        let y = poisoned(gpu, expected.len() * 2)?;
        let weights = (weight.region(), bias.region());
        let added = residual.then(|| added.region());
        compute
            .dnn
            .convolve(convolution, y.region(), x.region(), weights, added)?;
        let actual = download_bf16(gpu, &y, expected.len())?;
        agree(&format!("{convolution:?}"), &actual, &expected, ONCE)?;
    }
    Ok(())
}

fn convolve(
    convolution: Convolution,
    x: &[f32],
    weight: &[f32],
    added: impl Fn(usize, usize) -> f32,
) -> Vec<f32> {
    let Convolution {
        height,
        width,
        inputs,
        outputs,
        kernel,
        halving,
        ..
    } = convolution;
    let (rows, columns) = convolution.output_size();
    let (stride, before) = if halving { (2, 0) } else { (1, kernel / 2) };
    let mut y = vec![0f32; rows * columns * outputs];
    for (at, y) in y.iter_mut().enumerate() {
        let (output, column, row) = (at % outputs, at / outputs % columns, at / outputs / columns);
        let mut sum = added(at, output);
        for (i, j) in (0..kernel).flat_map(|i| (0..kernel).map(move |j| (i, j))) {
            let (from_row, from_column) = (row * stride + i, column * stride + j);
            let inside = (before..height + before).contains(&from_row)
                && (before..width + before).contains(&from_column);
            if inside {
                let pixel = (from_row - before) * width + from_column - before;
                for input in 0..inputs {
                    sum += x[pixel * inputs + input]
                        * weight[((output * kernel + i) * kernel + j) * inputs + input];
                }
            }
        }
        *y = sum;
    }
    y
}

fn group_norms(compute: &Compute) -> Outcome {
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

fn patches(compute: &Compute) -> Outcome {
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

fn steps_and_guidance(compute: &Compute) -> Outcome {
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

fn images(compute: &Compute) -> Outcome {
    let gpu = &compute.gpu;
    let (pixels, channels, stride) = (6, 5, 8);
    let latents = random(1, pixels * channels);
    let (latents_gpu, y) = (
        upload_f32(gpu, &latents)?,
        poisoned(gpu, pixels * stride * 2)?,
    );
    let sizes = Latents {
        pixels,
        channels,
        stride,
    };
    from_latents(gpu, sizes, y.region(), latents_gpu.region(), (0.5, 0.25))?;
    let value = |at: usize| match (at / stride, at % stride) {
        (pixel, channel) if channel < channels => latents[channel * pixels + pixel] / 0.5 + 0.25,
        _ => 0.0,
    };
    let image: Vec<f32> = (0..pixels * stride).map(value).collect();
    agree(
        "latents",
        &download_bf16(gpu, &y, image.len())?,
        &image,
        ONCE,
    )?;

    let image: Vec<f32> = random(2, pixels * stride);
    let (image_gpu, large) = (
        upload_bf16(gpu, &image)?,
        poisoned(gpu, 4 * pixels * stride * 2)?,
    );
    upsample(gpu, large.region(), image_gpu.region(), (2, 3, stride))?;
    let pixel =
        |row: usize, column: usize| image[(row / 2 * 3 + column / 2) * stride..][..stride].to_vec();
    let places = (0..4).flat_map(|row| (0..6).map(move |column| (row, column)));
    let expected: Vec<f32> = places
        .flat_map(|(row, column)| pixel(row, column))
        .collect();
    agree(
        "twice the size",
        &download_bf16(gpu, &large, expected.len())?,
        &expected,
        0.0,
    )?;

    let bytes = poisoned(gpu, pixels * 3)?;
    to_bytes(gpu, bytes.region(), image_gpu.region(), (pixels, stride))?;
    let level = |value: &f32| zimage_core::preview::level(*value);
    let expected: Vec<u8> = image
        .chunks(stride)
        .flat_map(|pixel| &pixel[..3])
        .map(level)
        .collect();
    match gpu.download::<u8>(bytes.region(), pixels * 3)? == expected {
        true => Ok(()),
        false => Err("the bytes are others than the host's".into()),
    }
}
