//! The arithmetic of changes: products and Kronecker products, a row at a time, in float32.

use std::num::NonZero;
use std::thread;

/// Rows that are worth a thread of their own.
const LEAST_ROWS: usize = 64;

/// A matrix, row by row.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Matrix {
    columns: usize,
    values: Vec<f32>,
}

impl Matrix {
    /// `columns` is not 0 and divides the number of values.
    pub(crate) const fn new(columns: usize, values: Vec<f32>) -> Self {
        Self { columns, values }
    }

    fn row(&self, number: usize) -> &[f32] {
        let start = number * self.columns;
        &self.values[start..start + self.columns]
    }

    /// The matrix product. The right side has as many rows as the left one has columns.
    pub(crate) fn times(&self, right: &Self) -> Self {
        let rows = self.values.len() / self.columns;
        let mut values = vec![0.0; rows * right.columns];
        for (number, sum) in values.chunks_exact_mut(right.columns).enumerate() {
            product_row(self, right, number, sum);
        }
        Self::new(right.columns, values)
    }
}

fn product_row(left: &Matrix, right: &Matrix, number: usize, sum: &mut [f32]) {
    sum.fill(0.0);
    for (k, &factor) in left.row(number).iter().enumerate() {
        for (sum, value) in sum.iter_mut().zip(right.row(k)) {
            *sum += factor * value;
        }
    }
}

/// What is added to a weight, in factors.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Delta {
    /// `left · right`: up and down of a LoRA.
    Product { left: Matrix, right: Matrix },
    /// `left ⊗ right`: w1 and w2 of a LoKR.
    Kronecker { left: Matrix, right: Matrix },
}

impl Delta {
    /// One row of the change.
    fn row(&self, number: usize, row: &mut [f32]) {
        match self {
            Self::Product { left, right } => product_row(left, right, number, row),
            Self::Kronecker { left, right } => {
                let rows = right.values.len() / right.columns;
                let (left, right) = (left.row(number / rows), right.row(number % rows));
                for (block, factor) in row.chunks_exact_mut(right.len()).zip(left) {
                    for (value, other) in block.iter_mut().zip(right) {
                        *value = factor * other;
                    }
                }
            }
        }
    }

    /// Adds `scale` times its rows from `first` on to the rows of a weight, on every core.
    pub(crate) fn add_to(&self, weight: &mut [f32], columns: usize, first: usize, scale: f32) {
        let rows = weight.len() / columns;
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        let share = rows.div_ceil(cores).max(LEAST_ROWS);
        let add = |weight: &mut [f32], first: usize| {
            let mut change = vec![0.0; columns];
            for (number, row) in weight.chunks_exact_mut(columns).enumerate() {
                self.row(first + number, &mut change);
                for (value, change) in row.iter_mut().zip(&change) {
                    *value += scale * change;
                }
            }
        };
        thread::scope(|scope| {
            for (number, part) in weight.chunks_mut(share * columns).enumerate() {
                scope.spawn(move || add(part, first + number * share));
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(columns: usize, values: &[f32]) -> Matrix {
        Matrix::new(columns, values.to_vec())
    }

    #[test]
    fn product_is_added_from_the_row_asked_for() {
        let delta = Delta::Product {
            left: matrix(2, &[1.0, 0.0, 0.0, 1.0, 2.0, 3.0]),
            right: matrix(2, &[1.0, 2.0, 3.0, 4.0]),
        };
        let mut weight = vec![100.0; 4];
        delta.add_to(&mut weight, 2, 1, -2.0);
        assert_eq!(weight, [94.0, 92.0, 78.0, 68.0]);
    }

    #[test]
    fn kronecker_product_repeats_the_right_side() {
        let delta = Delta::Kronecker {
            left: matrix(2, &[1.0, 2.0, 3.0, 4.0]),
            right: matrix(2, &[0.0, 5.0, 6.0, 7.0]),
        };
        let mut weight = vec![0.0; 16];
        delta.add_to(&mut weight, 4, 0, 1.0);
        let expected = [
            [0.0, 5.0, 0.0, 10.0],
            [6.0, 7.0, 12.0, 14.0],
            [0.0, 15.0, 0.0, 20.0],
            [18.0, 21.0, 24.0, 28.0],
        ];
        assert_eq!(weight, expected.concat());
    }

    #[test]
    fn threads_share_the_rows() {
        let rows = 5 * LEAST_ROWS + 3;
        let numbers: Vec<f32> = (0..rows).map(|row| row as f32).collect();
        let delta = Delta::Product {
            left: matrix(1, &numbers),
            right: matrix(3, &[1.0, 10.0, 100.0]),
        };
        let mut weight = vec![0.0; 3 * rows];
        delta.add_to(&mut weight, 3, 0, 1.0);
        let expected = numbers
            .iter()
            .flat_map(|row| [*row, row * 10.0, row * 100.0]);
        assert!(expected.eq(weight.iter().copied()));
    }

    #[test]
    fn product_of_two() {
        let product = matrix(2, &[1.0, 2.0]).times(&matrix(3, &[1.0, 0.0, 2.0, 0.0, 1.0, 3.0]));
        assert_eq!(product, matrix(3, &[1.0, 2.0, 8.0]));
    }
}
