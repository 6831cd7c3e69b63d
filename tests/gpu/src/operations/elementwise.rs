//! Activations, conversions, and rows of a table.

use super::ONCE;
use crate::Outcome;
use crate::oracle::{agree, download_bf16, poisoned, random, silu, upload_bf16, upload_f32};
use half::{bf16, f16};
use zimage_checkpoint::DType;
use zimage_core::noise::Generator;
use zimage_cuda::Compute;
use zimage_cuda::ops::embed::{self, gather, repeat_row, swiglu};
use zimage_cuda::ops::storage::to_bf16;

/// More than one thread of a conversion has more than one number.
const MANY: usize = 300_001;

pub(super) fn conversions(compute: &Compute) -> Outcome {
    let gpu = &compute.gpu;
    let single = Generator::new(1).randn(MANY);
    let halves: Vec<f16> = single.iter().map(|&value| f16::from_f32(value)).collect();
    let bits: Vec<u16> = halves.iter().map(|value| value.to_bits()).collect();
    let on_gpu = gpu.allocate(MANY * 2)?;
    gpu.upload(on_gpu.region(), &bits)?;
    let of_halves: Vec<f32> = halves.iter().map(|value| value.to_f32()).collect();
    for (from, x, values) in [
        (DType::F32, upload_f32(gpu, &single)?, single),
        (DType::F16, on_gpu, of_halves),
    ] {
        let y = poisoned(gpu, MANY * 2)?;
        to_bf16(gpu, y.region(), x.region(), from, MANY)?;
        let expected: Vec<f32> = values
            .into_iter()
            .map(|value| bf16::from_f32(value).to_f32())
            .collect();
        let actual = download_bf16(gpu, &y, MANY)?;
        agree(&format!("{from:?}"), &actual, &expected, 0.0)?;
    }
    Ok(())
}

/// What is made of a step's time.
pub(super) fn modulations(compute: &Compute) -> Outcome {
    let gpu = &compute.gpu;
    let (blocks, width) = (3, 40);
    let count = blocks * 4 * width;
    let x = random(1, count);
    let in_place = upload_f32(gpu, &x)?;
    embed::modulation(gpu, in_place.region(), (blocks, width))?;
    let modulated = |(at, value): (usize, &f32)| match at / width % 2 {
        0 => 1.0 + value,
        _ => value.tanh(),
    };
    let expected: Vec<f32> = x.iter().enumerate().map(modulated).collect();
    let actual = gpu.download(in_place.region(), count)?;
    agree("modulation", &actual, &expected, 1e-5)?;

    let in_place = upload_f32(gpu, &x)?;
    embed::add_one(gpu, in_place.region(), count)?;
    let expected: Vec<f32> = x.iter().map(|value| 1.0 + value).collect();
    let actual = gpu.download(in_place.region(), count)?;
    agree("one more", &actual, &expected, 0.0)?;

    let y = poisoned(gpu, count * 2)?;
    embed::silu(gpu, y.region(), upload_f32(gpu, &x)?.region(), count)?;
    let expected: Vec<f32> = x.iter().copied().map(silu).collect();
    agree("silu", &download_bf16(gpu, &y, count)?, &expected, ONCE)
}

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

    let row = table_gpu.region().part(2 * width * 2, width * 2)?;
    repeat_row(gpu, y.region(), row, (5, width))?;
    let repeated = table[2 * width..][..width].repeat(5);
    agree("a row", &download_bf16(gpu, &y, 5 * width)?, &repeated, 0.0)?;

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
