//! What products in integers cost in accuracy, for operands of every kind that the model has.

use crate::Outcome;
use crate::oracle::{Stored, distance, poisoned, random, silu, upload_bf16};
use zimage_cuda::matmul::{Output, Product};
use zimage_cuda::ops::hopper;
use zimage_cuda::{Compute, Format};

/// Rows of x, rows of the weight, and columns.
const SIZE: (usize, usize, usize) = (256, 384, 3840);

/// The mean relative distance of a row from the product in float32: a tenth more than simulations of the worst of these
/// operands gave. Without the rotation it is up to five times as large.
const MOST: f64 = 1.1 * 0.0142;

/// Numbers of Student's t-distribution: the fewer degrees of freedom, the heavier its tails.
fn student(seed: u64, count: usize, freedom: u64) -> Vec<f32> {
    let mut squares = vec![0f32; count];
    for number in 1..=freedom {
        let more = random(seed + number, count);
        squares
            .iter_mut()
            .zip(more)
            .for_each(|(sum, x)| *sum += x * x);
    }
    let numbers = random(seed, count).into_iter().zip(squares);
    numbers
        .map(|(x, sum)| x / (sum / freedom as f32).sqrt())
        .collect()
}

/// As what the feed-forward layers' first half makes.
fn activated(seed: u64, count: usize) -> Vec<f32> {
    let numbers = random(seed, count).into_iter().zip(random(seed + 1, count));
    numbers.map(|(gate, up)| silu(gate) * up).collect()
}

/// Makes some columns of some rows larger.
fn planted(mut x: Vec<f32>, columns: &[usize], every: usize, factor: f32) -> Vec<f32> {
    for row in x.chunks_mut(SIZE.2).step_by(every) {
        columns.iter().for_each(|&column| row[column] *= factor);
    }
    x
}

/// Kinds of operands: x and the weight.
fn kinds() -> Vec<(&'static str, Vec<f32>, Vec<f32>)> {
    let (m, n, k) = SIZE;
    let (channels, massive) = ([408, 1000], [26]);
    let (few, many) = (|| random(50, n * k), m * k);
    let both = planted(student(20, many, 3), &channels, 1, 26.0);
    vec![
        ("normal", random(10, many), few()),
        ("heavy tails", student(20, many, 3), few()),
        (
            "two large channels",
            planted(random(10, many), &channels, 1, 26.0),
            few(),
        ),
        (
            "massive activations",
            planted(random(10, many), &massive, 25, 1000.0),
            few(),
        ),
        (
            "all of these",
            planted(both, &massive, 25, 1000.0),
            student(60, n * k, 5),
        ),
        ("gate and up", activated(30, many), few()),
        (
            "gate and up, large channels",
            planted(activated(30, many), &[5, 700, 3000], 1, 100.0),
            few(),
        ),
    ]
}

pub(crate) fn products_of_rotated_integers(compute: &Compute) -> Outcome {
    let gpu = &compute.gpu;
    let (m, n, k) = SIZE;
    let product = Product {
        m,
        n,
        k,
        output: Output::F32,
    };
    let mut wrong = Vec::new();
    for (kind, x, mut weight) in kinds() {
        // A scale that is dropped shows, for each row has another.
        for (row, weight) in weight.chunks_mut(k).enumerate() {
            let size = [0.01, 0.03, 0.02][row % 3];
            weight.iter_mut().for_each(|value| *value *= size);
        }
        let (x, weight) = (upload_bf16(gpu, &x)?, upload_bf16(gpu, &weight)?);
        let expected = poisoned(gpu, 4 * m * n)?;
        let operands = (x.region(), weight.region());
        compute
            .matmuls
            .run(gpu, product, expected.region(), operands, None)?;
        let expected = gpu.download::<f32>(expected.region(), m * n)?;
        let y = Stored::poisoned(gpu, Format::Bf16, (m, n))?;
        let x = Stored::of(gpu, Format::S8, (m, k), &x)?;
        let weight = Stored::of(gpu, Format::S8, (n, k), &weight)?;
        hopper::product(gpu, y.matrix()?, x.matrix()?, weight.matrix()?)?;
        let actual = y.numbers(gpu)?;
        let rows = actual.chunks(n).zip(expected.chunks(n));
        let mean = rows.map(|(a, b)| distance(a, b)).sum::<f64>() / m as f64;
        println!("{kind}: relative distance {mean:.4} of a row");
        if mean.is_nan() || mean > MOST {
            wrong.push(format!("{kind}: {mean:.4}"));
        }
    }
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(format!("at most {MOST:.4} is right: {}", wrong.join(", ")).into()),
    }
}
