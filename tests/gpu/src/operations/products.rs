//! Matrix products through cuBLASLt.

use super::ONCE;
use crate::Outcome;
use crate::oracle::{agree, download_bf16, poisoned, random, upload_bf16, upload_f32};
use zimage_cuda::Compute;
use zimage_cuda::matmul::{Output, Product};

pub(super) fn matrix_products(compute: &Compute) -> Outcome {
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
