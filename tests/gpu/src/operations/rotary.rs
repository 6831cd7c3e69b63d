//! Norms of heads and the rotary embedding.

use super::ONCE;
use crate::Outcome;
use crate::oracle::{agree, download_bf16, mean_square, random, upload_bf16, upload_f32};
use zimage_cuda::Compute;
use zimage_cuda::ops::rope::{Pairs, norm_and_rotate};
use zimage_cuda::shapes::Heads;

pub(super) fn rotary_embedding(compute: &Compute) -> Outcome {
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
