//! Hopper's own kernels against plain ones, one after the other.

use crate::errors::products_of_rotated_integers;
use crate::oracle::{Stored, agree, download_bf16, poisoned, random, silu, upload_bf16};
use crate::{OperationTest, Outcome};
use zimage_cuda::matmul::{Output, Product};
use zimage_cuda::ops::attention::plain;
use zimage_cuda::ops::hopper::{self, gate_up_swiglu};
use zimage_cuda::shapes::Heads;
use zimage_cuda::{Compute, Format, Gpu, GpuError, Matrix, Memory};

/// The other way rounds to bfloat16 twice or three times.
const SEVERAL: f64 = 8e-3;

/// The largest number of the format.
const MOST_E4M3: f32 = 448.0;

pub(crate) const ALL: &[(&str, OperationTest)] = &[
    ("attention_of_pairs", attention_of_pairs),
    ("products", products),
    (
        "a_product_into_memory_that_was_never_written",
        a_product_into_memory_that_was_never_written,
    ),
    ("gate_and_up_with_swiglu", gate_and_up_with_swiglu),
    ("products_of_rotated_integers", products_of_rotated_integers),
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

/// Factors of a product in one format.
struct Factors {
    x: Stored,
    weight: Stored,
}

impl Factors {
    /// Of so many rows of x, rows of the weight, and columns. The rows of x are of different sizes.
    fn new(
        compute: &Compute,
        format: Format,
        (m, n, k): (usize, usize, usize),
    ) -> Result<Self, GpuError> {
        let gpu = &compute.gpu;
        if format == Format::S8 {
            return Ok(Self {
                x: Stored::integers(gpu, (m, k), 1)?,
                weight: Stored::integers(gpu, (n, k), 2)?,
            });
        }
        let mut values = random(1, m * k);
        for (row, values) in values.chunks_mut(k).enumerate() {
            let size = [1.0, 0.25, 2.0][row % 3];
            values.iter_mut().for_each(|value| *value *= size);
        }
        let (x, weight) = (upload_bf16(gpu, &values)?, weights(compute, n, k)?);
        Ok(Self {
            x: Stored::of(gpu, format, (m, k), &x)?,
            weight: Stored::of(gpu, format, (n, k), &weight)?,
        })
    }

    /// The product in float32, row by row, by the library: numbers of eight bits are numbers in bfloat16 too.
    fn expected(
        &self,
        compute: &Compute,
        (m, n, k): (usize, usize, usize),
    ) -> Result<Vec<f32>, GpuError> {
        let gpu = &compute.gpu;
        let output = Output::F32;
        let product = Product { m, n, k, output };
        let x = upload_bf16(gpu, &self.x.numbers(gpu)?)?;
        let weight = upload_bf16(gpu, &self.weight.numbers(gpu)?)?;
        let (y, operands) = (poisoned(gpu, 4 * m * n)?, (x.region(), weight.region()));
        compute
            .matmuls
            .run(gpu, product, y.region(), operands, None)?;
        let mut sums = gpu.download::<f32>(y.region(), m * n)?;
        let (rows, columns) = (self.x.scales(gpu)?, self.weight.scales(gpu)?);
        for (sums, row) in sums.chunks_mut(n).zip(rows) {
            for (sum, column) in sums.iter_mut().zip(&columns) {
                *sum *= row * column;
            }
        }
        Ok(sums)
    }
}

/// Rounding once to bfloat16; sums of e4m3 keep some thirteen bits beside that.
const fn rounding(format: Format) -> f64 {
    match format {
        Format::Bf16 | Format::S8 => 3e-3,
        Format::E4m3 => 5e-3,
    }
}

/// Rows and columns that fill tiles and that do not, in even and in odd numbers of tiles; fewer tiles than clusters and
/// more.
const SIZES: [(usize, usize, usize); 8] = [
    (128, 192, 128),
    (1, 16, 16),
    (130, 144, 208),
    (256, 384, 128),
    (300, 336, 112),
    (640, 2560, 960),
    (1088, 3840, 3840),
    (4160, 1280, 3840),
];

fn products(compute: &Compute) -> Outcome {
    let gpu = &compute.gpu;
    for format in [Format::Bf16, Format::E4m3, Format::S8] {
        for size in SIZES {
            let factors = Factors::new(compute, format, size)?;
            let y = Stored::poisoned(gpu, Format::Bf16, (size.0, size.1))?;
            let operands = (factors.x.matrix()?, factors.weight.matrix()?);
            hopper::product(gpu, y.matrix()?, operands.0, operands.1)?;
            let expected = factors.expected(compute, size)?;
            let name = format!("{format:?} {size:?}");
            agree(&name, &y.numbers(gpu)?, &expected, rounding(format))?;
            if format == Format::E4m3 {
                let y = Stored::poisoned(gpu, Format::Bf16, (size.0, size.1))?;
                let matmuls = &compute.matmuls;
                matmuls.run_scaled(gpu, y.matrix()?, operands.0, operands.1)?;
                let name = format!("the library's {name}");
                agree(&name, &y.numbers(gpu)?, &expected, rounding(format))?;
            }
        }
    }
    Ok(())
}

/// It is what it is elsewhere, and complete. Under compute-sanitizer's initcheck this shows that the tool does not see what the
/// copy engine stores: it reports the read of a result that is here compared number by number.
fn a_product_into_memory_that_was_never_written(compute: &Compute) -> Outcome {
    let gpu = &compute.gpu;
    let size = (130, 144, 208);
    let (m, n, _) = size;
    let factors = Factors::new(compute, Format::E4m3, size)?;
    let operands = (factors.x.matrix()?, factors.weight.matrix()?);
    let (fresh, written) = (gpu.allocate(2 * m * n)?, poisoned(gpu, 2 * m * n)?);
    let quantised = |y: &Memory| -> Result<Vec<f32>, GpuError> {
        let whole = Matrix::bf16(y.region(), (m, n))?;
        hopper::product(gpu, whole, operands.0, operands.1)?;
        Stored::of(gpu, Format::E4m3, (m, n), y)?.numbers(gpu)
    };
    if quantised(&fresh)? == quantised(&written)? {
        return Ok(());
    }
    Err("what memory held before shows in the result".into())
}

/// What the host makes of the gate's and up's sums.
fn activated(both: &[f32], width: usize) -> Vec<f32> {
    let row = |both: &[f32]| -> Vec<f32> {
        let (gate, up) = both.split_at(width);
        gate.iter().zip(up).map(|(&g, u)| silu(g) * u).collect()
    };
    both.chunks(2 * width).flat_map(row).collect()
}

fn gate_and_up_with_swiglu(compute: &Compute) -> Outcome {
    let gpu = &compute.gpu;
    for format in [Format::Bf16, Format::E4m3, Format::S8] {
        for (rows, width, depth) in SIZES {
            let size = (rows, 2 * width, depth);
            let factors = Factors::new(compute, format, size)?;
            let y = Stored::poisoned(gpu, Format::Bf16, (rows, width))?;
            let operands = (factors.x.matrix()?, factors.weight.matrix()?);
            gate_up_swiglu(gpu, y.matrix()?, operands.0, operands.1)?;
            let expected = activated(&factors.expected(compute, size)?, width);
            let name = format!("{format:?} {rows} x {width} x {depth}");
            // An error of a sum shows twice.
            agree(&name, &y.numbers(gpu)?, &expected, 2.0 * rounding(format))?;
            if format == Format::E4m3 {
                let name = format!("{name} in eight bits");
                in_eight_bits(gpu, &factors, &expected, (rows, width))
                    .map_err(|error| format!("{name}: {}", error.message().unwrap_or("failed")))?;
            }
        }
    }
    Ok(())
}

/// Every number of a result in e4m3 is next to the expected one. The scales of some rows are larger than they need be, and of
/// some so small that the largest numbers do not fit.
fn in_eight_bits(gpu: &Gpu, factors: &Factors, expected: &[f32], shape: (usize, usize)) -> Outcome {
    let y = Stored::poisoned(gpu, Format::E4m3, shape)?;
    let rows = expected.chunks(shape.1).enumerate();
    let scale = |(row, numbers): (usize, &[f32])| {
        let most = numbers.iter().fold(1e-6f32, |most, x| most.max(x.abs()));
        [1.0, 16.0, 0.5][row % 3] * most / MOST_E4M3
    };
    let scales: Vec<f32> = rows.map(scale).collect();
    y.set_scales(gpu, &scales)?;
    gate_up_swiglu(
        gpu,
        y.matrix()?,
        factors.x.matrix()?,
        factors.weight.matrix()?,
    )?;
    let numbers = y.numbers(gpu)?;
    let rows = numbers.chunks(shape.1).zip(expected.chunks(shape.1));
    let (mut wrong, mut size) = (0.0, 0.0);
    for ((actual, expected), scale) in rows.zip(scales) {
        let most = expected.iter().fold(0f32, |most, x| most.max(x.abs())) / scale;
        for (&actual, &expected) in actual.iter().zip(expected) {
            let expected = (expected / scale).clamp(-MOST_E4M3, MOST_E4M3);
            let error = f64::from(actual - expected);
            // Half a step, and what the sums' own error is beside the row's largest number.
            let most = f64::from(expected.abs() / 16.0 + 2f32.powi(-10) + 0.02 * most);
            if error.abs() > most || error.is_nan() {
                return Err(format!("{actual} is not {expected}").into());
            }
            wrong += error * error;
            size += f64::from(expected * expected);
        }
    }
    let distance = (wrong / size).sqrt();
    // Rounding to three bits of mantissa.
    if distance < 0.03 {
        return Ok(());
    }
    Err(format!("relative distance {distance:.3e}").into())
}
