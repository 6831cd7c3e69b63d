//! Each operation against the host's arithmetic.

mod attention;
mod convolutions;
mod elementwise;
mod images;
mod norms;
mod png;
mod products;
mod quantised;
mod recording;
mod rotary;
mod sampler;

use crate::OperationTest;
use attention::{attention_of_every_shape, softmax_of_rows};
use convolutions::{a_convolution_whose_plan_was_dropped, convolutions};
use elementwise::{activations, conversions, modulations, rows_of_a_table};
use images::images;
use norms::{addition_and_norm, group_norms, norms};
use png::image_data;
use products::{a_searched_algorithm, matrix_products};
use quantised::rows_in_eight_bits;
use recording::a_failed_recording;
use rotary::rotary_embedding;
use sampler::{patches, steps_and_guidance};

/// Rounding once to bfloat16.
const ONCE: f64 = 3e-3;

/// Rounding several times on the way.
const SEVERAL: f64 = 8e-3;

pub(crate) const ALL: &[(&str, OperationTest)] = &[
    ("norms", norms),
    ("addition_and_norm", addition_and_norm),
    ("rotary_embedding", rotary_embedding),
    ("activations", activations),
    ("conversions", conversions),
    ("modulations", modulations),
    ("rows_of_a_table", rows_of_a_table),
    ("rows_in_eight_bits", rows_in_eight_bits),
    ("softmax_of_rows", softmax_of_rows),
    ("matrix_products", matrix_products),
    ("a_searched_algorithm", a_searched_algorithm),
    ("attention_of_every_shape", attention_of_every_shape),
    ("convolutions", convolutions),
    (
        "a_convolution_whose_plan_was_dropped",
        a_convolution_whose_plan_was_dropped,
    ),
    ("group_norms", group_norms),
    ("patches", patches),
    ("steps_and_guidance", steps_and_guidance),
    ("images", images),
    ("image_data", image_data),
    ("a_failed_recording", a_failed_recording),
];
