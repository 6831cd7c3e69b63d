//! Numbers as they were written.

/// The decimal that was written, 0.6 rather than the nearest single precision number: diffusers computes with Python's
/// double precision, and a step or a time may be that number exactly.
pub(crate) fn written(number: f32) -> f64 {
    number.to_string().parse().unwrap_or(f64::from(number))
}
