//! From bfloat16 to eight bits.

use crate::Outcome;
use crate::oracle::{Stored, is_rotated, random, upload_bf16};
use zimage_cuda::{Compute, Format};

/// The largest number of e4m3.
const MOST_E4M3: f32 = 448.0;

/// Rows with one large number, with zeros alone and with what is no number; a row of fewer numbers than a block has threads,
/// and of more than one vector a thread.
pub(super) fn rows_in_eight_bits(compute: &Compute) -> Outcome {
    let gpu = &compute.gpu;
    let e4m3 = (compute.gpu.properties().capability >= (8, 9)).then_some(Format::E4m3);
    for format in e4m3.into_iter().chain([Format::S8]) {
        for (rows, columns) in [(5, 128), (5, 640), (6, 3840), (5, 10_240)] {
            let mut x = random(1, rows * columns);
            x[3] = -90.0;
            x[columns..2 * columns].fill(0.0);
            x[3 * columns + 1] = f32::NAN;
            x[4 * columns + 7] = f32::NEG_INFINITY;
            let memory = upload_bf16(gpu, &x)?;
            let stored = Stored::of(gpu, format, (rows, columns), &memory)?;
            let (numbers, scales) = (stored.numbers(gpu)?, stored.scales(gpu)?);
            let whole = x.chunks(columns).zip(numbers.chunks(columns)).zip(scales);
            for (row, ((x, numbers), scale)) in whole.enumerate() {
                let what = format!("{format:?} {rows} x {columns}, row {row}");
                match (row, format) {
                    (3 | 4, _) => stays_without_numbers(&what, numbers, scale)?,
                    (_, Format::S8) => is_rotated(&what, (numbers, scale), x, 0.501)?,
                    _ => is_near(&what, (numbers, scale), x)?,
                }
            }
        }
    }
    Ok(())
}

fn stays_without_numbers(what: &str, numbers: &[f32], scale: f32) -> Outcome {
    if numbers.iter().all(|number| (number * scale).is_finite()) {
        return Err(format!("{what}: what is no number became one").into());
    }
    Ok(())
}

fn is_near(what: &str, (numbers, scale): (&[f32], f32), x: &[f32]) -> Outcome {
    let most = x.iter().fold(0f32, |most, x| most.max(x.abs()));
    let expected = if most == 0.0 { 1.0 } else { most / MOST_E4M3 };
    if (scale / expected - 1.0).abs() > 1e-5 {
        return Err(format!("{what}: scale {scale}, not {expected}").into());
    }
    for (x, number) in x.iter().zip(numbers) {
        let step = (x / scale).abs().max(2f32.powi(-6)) / 8.0;
        let error = (number - x / scale).abs();
        if error > 0.5001 * step || error.is_nan() {
            return Err(format!("{what}: {} became {number}", x / scale).into());
        }
    }
    Ok(())
}
