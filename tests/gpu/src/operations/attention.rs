//! Softmax and cuDNN's attention.

use super::{ONCE, SEVERAL};
use crate::Outcome;
use crate::oracle::{agree, download_bf16, poisoned, random, upload_bf16, upload_f32};
use zimage_cuda::Compute;
use zimage_cuda::ops::attention::{plain, softmax};
use zimage_cuda::shapes::Attention;
use zimage_cuda::shapes::Heads;

pub(super) fn softmax_of_rows(compute: &Compute) -> Outcome {
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

pub(super) fn attention_of_every_shape(compute: &Compute) -> Outcome {
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
