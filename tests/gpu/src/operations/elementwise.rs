//! Activations, and rows of a table.

use super::ONCE;
use crate::Outcome;
use crate::oracle::{agree, download_bf16, poisoned, random, silu, upload_bf16};
use zimage_cuda::Compute;
use zimage_cuda::ops::embed::{gather, swiglu};

pub(super) fn activations(compute: &Compute) -> Outcome {
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

pub(super) fn rows_of_a_table(compute: &Compute) -> Outcome {
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
