//! Matrix products through cuBLASLt.

use super::ONCE;
use crate::Outcome;
use crate::oracle::{agree, download_bf16, poisoned, random, upload_bf16, upload_f32};
use std::fs;
use zimage_cuda::matmul::{Output, Product};
use zimage_cuda::{Compute, GpuOptions};

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

/// The smallest product for which algorithms are searched.
const SEARCHED: Product = Product {
    m: 2048,
    n: 4096,
    k: 4096,
    output: Output::Bf16,
};

/// The one that is chosen first stays: after a restart, on a machine with the exported table, and for nearly as many rows.
pub(super) fn a_searched_algorithm(_: &Compute) -> Outcome {
    let folder = tempfile::tempdir()?;
    let (cache, table) = (
        folder.path().join("cache"),
        folder.path().join("table.json"),
    );
    let cached = GpuOptions {
        cache: Some(cache.clone()),
        ..GpuOptions::default()
    };
    let given = GpuOptions {
        tuning: Some(table.clone()),
        ..GpuOptions::default()
    };
    let Product { m, n, k, .. } = SEARCHED;
    let (x, weight) = (random(1, m * k), random(2, n * k));
    let multiply = |compute: &Compute, m: usize| {
        let gpu = &compute.gpu;
        let (x, weight) = (upload_bf16(gpu, &x)?, upload_bf16(gpu, &weight)?);
        let (y, operands) = (poisoned(gpu, m * n * 2)?, (x.region(), weight.region()));
        let product = Product { m, ..SEARCHED };
        compute
            .matmuls
            .run(gpu, product, y.region(), operands, None)?;
        download_bf16(gpu, &y, m * n)
    };
    let untuned = multiply(&Compute::open(&GpuOptions::default())?, m)?;
    let tuning = Compute::open(&cached)?;
    tuning.matmuls.tune(true);
    let (first, fewer) = (multiply(&tuning, m)?, multiply(&tuning, m - 64)?);
    agree("the searched algorithm", &first, &untuned, ONCE)?;
    if fewer != first[..(m - 64) * n] {
        return Err("a row depends on how many there are".into());
    }
    tuning.matmuls.export(&table)?;
    drop(tuning);
    let files = fs::read_dir(&cache)?.collect::<Result<Vec<_>, _>>()?;
    let kept = |file: &fs::DirEntry| {
        file.file_name()
            .to_string_lossy()
            .starts_with("algorithms-")
    };
    if !files.iter().any(kept) {
        return Err("the cache has no table".into());
    }
    for options in [&cached, &given] {
        let compute = Compute::open(options)?;
        compute.matmuls.tune(true);
        if multiply(&compute, m)? != first || multiply(&compute, m - 64)? != fewer {
            return Err("with the table the bytes are others".into());
        }
    }
    Ok(())
}
