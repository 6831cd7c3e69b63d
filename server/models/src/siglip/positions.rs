//! Learned positions, stretched to an image's patches.

use candle_core::{Device, Result, Tensor};
use zimage_core::resize::{Resampling, Tap};

/// Positions (side, side, hidden) as (rows, columns, hidden): bilinear, and smoothed where there are fewer.
pub(super) fn stretch(positions: &Tensor, rows: usize, columns: usize) -> Result<Tensor> {
    let (side, _, hidden) = positions.dims3()?;
    let narrowed = shares(side, columns)?
        .broadcast_matmul(positions)?
        .reshape((side, columns * hidden))?;
    shares(side, rows)?
        .matmul(&narrowed)?
        .reshape((rows, columns, hidden))
}

/// What each of `to` is made of: (to, from).
fn shares(from: usize, to: usize) -> Result<Tensor> {
    let mut values = vec![0f32; from * to];
    let taps = Resampling::TorchBilinear.taps(from, to);
    for (row, Tap { first, shares }) in values.chunks_mut(from).zip(taps) {
        for (value, share) in row[first..].iter_mut().zip(shares) {
            *value = share as f32;
        }
    }
    Tensor::from_vec(values, (to, from), &Device::Cpu)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_of_a_square_of_their_size_stay() {
        let positions = Tensor::arange(0f32, 32.0, &Device::Cpu)
            .unwrap()
            .reshape((4, 4, 2))
            .unwrap();
        let same = stretch(&positions, 4, 4).unwrap();
        assert_eq!(
            same.to_vec3::<f32>().unwrap(),
            positions.to_vec3::<f32>().unwrap()
        );
    }

    #[test]
    fn fewer_positions_are_means() {
        let positions = Tensor::new(&[[[0f32], [2.0]], [[4.0], [6.0]]], &Device::Cpu).unwrap();
        let one = stretch(&positions, 1, 1).unwrap();
        assert_eq!(one.to_vec3::<f32>().unwrap(), [[[3.0]]]);
    }
}
