//! cuDNN's convolutions.

use super::ONCE;
use crate::Outcome;
use crate::oracle::{agree, download_bf16, poisoned, random, upload_bf16};
use zimage_cuda::Compute;
use zimage_cuda::dnn::{CONVOLUTIONS, Convolution};

pub(super) fn convolutions(compute: &Compute) -> Outcome {
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

/// More sizes than plans are kept for, each a pixel wider than the one before.
pub(super) fn a_convolution_whose_plan_was_dropped(compute: &Compute) -> Outcome {
    const NARROWEST: usize = 8;
    let gpu = &compute.gpu;
    let convolution = |width| Convolution {
        height: 4,
        width,
        inputs: 16,
        outputs: 24,
        kernel: 3,
        residual: false,
        halving: false,
    };
    let widest = NARROWEST + CONVOLUTIONS;
    let x = upload_bf16(gpu, &random(1, 4 * widest * 16))?;
    let weight = upload_bf16(gpu, &random(2, 24 * 9 * 16))?;
    let bias = upload_bf16(gpu, &random(3, 24))?;
    let y = poisoned(gpu, 4 * widest * 24 * 2)?;
    let weights = (weight.region(), bias.region());
    let computed = |width| {
        let (y, x) = (y.region(), x.region());
        compute
            .dnn
            .convolve(convolution(width), y, x, weights, None)
    };
    let narrowest = || {
        computed(NARROWEST)?;
        download_bf16(gpu, &y, 4 * NARROWEST * 24)
    };
    let before = narrowest()?;
    (NARROWEST + 1..=widest).try_for_each(computed)?;
    compute.dnn.trim(gpu)?;
    if compute.dnn.planned() > 0 {
        return Err(format!("{} plans are kept", compute.dnn.planned()).into());
    }
    agree("the narrowest again", &narrowest()?, &before, 0.0)
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
