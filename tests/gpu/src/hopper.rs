//! Hopper's own kernels against plain ones, one after the other.

use crate::oracle::{agree, download_bf16, poisoned, random, upload_bf16};
use crate::{OperationTest, Outcome};
use zimage_cuda::matmul::{Output, Product};
use zimage_cuda::ops::attention::plain;
use zimage_cuda::ops::embed::swiglu;
use zimage_cuda::ops::hopper::{self, Factors, gate_up_swiglu};
use zimage_cuda::ops::rope::Heads;
use zimage_cuda::{Compute, GpuError, Memory};

/// The other way rounds to bfloat16 twice or three times.
const SEVERAL: f64 = 8e-3;

pub(crate) const ALL: &[(&str, OperationTest)] = &[
    ("attention_of_pairs", attention_of_pairs),
    ("gate_and_up_with_swiglu", gate_and_up_with_swiglu),
];

/// Units that fill pairs and blocks and that do not, one head and several, units of two heads in a pair, fewer pairs than
/// multiprocessors and more.
fn attention_of_pairs(compute: &Compute) -> Outcome {
    let gpu = &compute.gpu;
    for (tokens, heads, kv_heads) in [
        (128, 1, 1),
        (1, 1, 1),
        (64, 2, 2),
        (63, 3, 3),
        (130, 3, 1),
        (320, 5, 5),
        (1000, 6, 2),
        (1088, 30, 30),
        (2080, 30, 30),
    ] {
        let heads = Heads {
            tokens,
            heads,
            kv_heads,
            width: 128,
        };
        let rows = upload_bf16(gpu, &random(3, tokens * heads.row()))?;
        let count = tokens * heads.heads * heads.width;
        let (y, expected) = (poisoned(gpu, 2 * count)?, poisoned(gpu, 2 * count)?);
        hopper::attend(gpu, heads, y.region(), rows.region())?;
        plain(gpu, heads, expected.region(), rows.region(), false)?;
        let (y, expected) = (
            download_bf16(gpu, &y, count)?,
            download_bf16(gpu, &expected, count)?,
        );
        agree(&format!("{heads:?}"), &y, &expected, SEVERAL)?;
    }
    Ok(())
}

fn weights(compute: &Compute, rows: usize, columns: usize) -> Result<Memory, GpuError> {
    let scale = (columns as f32).sqrt().recip();
    let values: Vec<f32> = random(2, rows * columns)
        .iter()
        .map(|w| w * scale)
        .collect();
    upload_bf16(&compute.gpu, &values)
}

/// Rows and columns that fill tiles and that do not, in even and in odd numbers of tiles; fewer tiles than clusters and
/// more.
fn gate_and_up_with_swiglu(compute: &Compute) -> Outcome {
    let gpu = &compute.gpu;
    for (rows, width, depth) in [
        (128, 128, 64),
        (1, 8, 8),
        (130, 136, 200),
        (256, 384, 128),
        (300, 328, 104),
        (640, 2560, 960),
        (1088, 10_240, 3840),
        (4160, 1280, 3840),
    ] {
        let x = upload_bf16(gpu, &random(1, rows * depth))?;
        let weight = weights(compute, 2 * width, depth)?;
        let y = poisoned(gpu, rows * width * 2)?;
        let factors = Factors {
            x: x.region(),
            weight: weight.region(),
            depth,
        };
        gate_up_swiglu(gpu, y.region(), factors, (rows, width))?;
        let product = Product {
            m: rows,
            n: 2 * width,
            k: depth,
            output: Output::Bf16,
        };
        let (both, expected) = (
            poisoned(gpu, 4 * rows * width)?,
            poisoned(gpu, 2 * rows * width)?,
        );
        let operands = (x.region(), weight.region());
        compute
            .matmuls
            .run(gpu, product, both.region(), operands, None)?;
        swiglu(gpu, expected.region(), both.region(), (rows, width))?;
        agree(
            &format!("{rows} x {width} x {depth}"),
            &download_bf16(gpu, &y, rows * width)?,
            &download_bf16(gpu, &expected, rows * width)?,
            SEVERAL,
        )?;
    }
    Ok(())
}
