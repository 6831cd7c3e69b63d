//! The factors of a module's change: which tensors of the file they are, and whether they fit.

use super::key::Part;
use super::matrix::{Delta, Matrix};
use crate::error::CheckpointError;
use crate::shard::Shard;
use crate::stored::Place;
use crate::tensor::TensorView;
use std::collections::BTreeMap;

/// A module's parts: the keys of their tensors.
pub(crate) type Parts = BTreeMap<Part, String>;

/// One factor: a tensor, or the product of two.
#[derive(Clone)]
struct Factor {
    key: String,
    /// The right side of the product.
    second: Option<String>,
    shape: [usize; 2],
    /// Columns of the left side of the product.
    rank: Option<usize>,
}

#[derive(Clone)]
enum Kind {
    /// up and down.
    Lora,
    /// w1 and w2.
    Lokr,
}

/// The two factors of a change.
#[derive(Clone)]
pub(crate) struct Factors {
    kind: Kind,
    left: Factor,
    right: Factor,
}

impl Factors {
    /// The factors of a weight of that shape, and what the file's alpha scales them by. Only alpha is read; of the others
    /// it is made sure that their product has the weight's shape, so that it takes no more memory than the weight.
    pub(crate) fn read(
        file: &Shard,
        parts: &Parts,
        shape: [usize; 2],
    ) -> Result<(Self, f64), String> {
        let factor = |parts_of| Factor::read(file, parts, parts_of);
        let (kind, left, right) = if parts.contains_key(&Part::Down) {
            let (up, down) = (factor([Part::Up; 3])?, factor([Part::Down; 3])?);
            (Kind::Lora, up, down)
        } else {
            let left = factor([Part::W1, Part::W1A, Part::W1B])?;
            let right = factor([Part::W2, Part::W2A, Part::W2B])?;
            (Kind::Lokr, left, right)
        };
        let read = |factor: &Factor| 1 + usize::from(factor.second.is_some());
        let alpha = parts.get(&Part::Alpha);
        if read(&left) + read(&right) + usize::from(alpha.is_some()) != parts.len() {
            return Err("it has parts of a LoRA and of a LoKR, or a part too many".to_owned());
        }
        let product = match kind {
            Kind::Lora if left.shape[1] != right.shape[0] => None,
            Kind::Lora => Some([left.shape[0], right.shape[1]]),
            Kind::Lokr => left.kronecker(&right),
        };
        if product != Some(shape) {
            return Err(format!(
                "its factors have shapes {:?} and {:?}, the weight has {shape:?}",
                left.shape, right.shape
            ));
        }
        let rank = match kind {
            Kind::Lora => Some(right.shape[0]),
            // LyCORIS ignores alpha where neither factor is a product.
            Kind::Lokr => right.rank.or(left.rank),
        };
        let scale = match (alpha, rank) {
            (Some(key), Some(rank)) => number(file, key)? / rank as f64,
            _ => 1.0,
        };
        Ok((Self { kind, left, right }, scale))
    }

    /// Reads the factors' values.
    pub(crate) fn load(&self, file: &Shard) -> Result<Delta, CheckpointError> {
        let (left, right) = (self.left.load(file)?, self.right.load(file)?);
        Ok(match self.kind {
            Kind::Lora => Delta::Product { left, right },
            Kind::Lokr => Delta::Kronecker { left, right },
        })
    }
}

impl Factor {
    /// The factor that is stored as `whole`, or as the product of `left` and `right`.
    fn read(file: &Shard, parts: &Parts, [whole, left, right]: [Part; 3]) -> Result<Self, String> {
        if let Some(key) = parts.get(&whole) {
            return Ok(Self {
                key: key.clone(),
                second: None,
                shape: matrix_shape(file, key)?,
                rank: None,
            });
        }
        let (Some(left), Some(right)) = (parts.get(&left), parts.get(&right)) else {
            return Err(format!("it has no {whole:?}"));
        };
        let [[rows, rank], [same, columns]] =
            [matrix_shape(file, left)?, matrix_shape(file, right)?];
        if rank != same {
            return Err(format!(
                "{left:?} and {right:?} have ranks {rank} and {same}"
            ));
        }
        Ok(Self {
            key: left.clone(),
            second: Some(right.clone()),
            shape: [rows, columns],
            rank: Some(rank),
        })
    }

    /// Rows and columns of the Kronecker product.
    fn kronecker(&self, right: &Self) -> Option<[usize; 2]> {
        let rows = self.shape[0].checked_mul(right.shape[0])?;
        Some([rows, self.shape[1].checked_mul(right.shape[1])?])
    }

    fn load(&self, file: &Shard) -> Result<Matrix, CheckpointError> {
        let matrix = |key: &str| {
            let view = tensor(file, key)?;
            Ok(Matrix::new(view.shape[1], view.to_f32()))
        };
        let left = matrix(&self.key)?;
        match &self.second {
            Some(right) => Ok(left.times(&matrix(right)?)),
            None => Ok(left),
        }
    }
}

fn tensor<'a>(file: &'a Shard, key: &str) -> Result<TensorView<'a>, CheckpointError> {
    file.tensor(&Place {
        stored: key.to_owned(),
        third: None,
    })
}

/// Rows and columns of a tensor that has two dimensions, neither of which is 0.
fn matrix_shape(file: &Shard, key: &str) -> Result<[usize; 2], String> {
    let shape = tensor(file, key).map_err(|error| error.problem)?.shape;
    match shape.as_slice() {
        &[rows, columns] if rows > 0 && columns > 0 => Ok([rows, columns]),
        _ => Err(format!("{key:?} has shape {shape:?}, which is no matrix")),
    }
}

/// The tensor's only value.
fn number(file: &Shard, key: &str) -> Result<f64, String> {
    let view = tensor(file, key).map_err(|error| error.problem)?;
    match view.shape.iter().product() {
        1 => Ok(view.to_f32().into_iter().map(f64::from).sum()),
        count => Err(format!("{key:?} has {count} values; alpha is one")),
    }
}
