//! A short name for a model's weights.

use crate::checkpoint::Checkpoint;
use crate::error::CheckpointError;
use crate::manifest::Hash;

/// Bytes of each tensor that are read.
const SAMPLE: usize = 4 << 10;

/// Digits of the hash that are kept.
const DIGITS: usize = 16;

impl Checkpoint {
    /// A hash of what the configurations' tensors are: name, format, shape and the first 4 KiB of each as it is stored.
    /// Models that differ, differ in nearly every tensor, and this takes no longer than opening the files. It finds no
    /// damage: that is what a manifest is for.
    ///
    /// # Errors
    /// When a tensor is missing.
    pub fn fingerprint(&self) -> Result<String, CheckpointError> {
        let mut hash = Hash::default();
        for &component in self.components() {
            for tensor in self.expected(component) {
                let weights = self.weights(component)?;
                let (stored, bytes) = weights.beginning(&tensor.name, SAMPLE)?;
                let (name, format, shape) = (&tensor.name, &stored.format, &stored.shape);
                hash.update(format!("{name} {format:?} {shape:?}").as_bytes());
                hash.update(&bytes);
            }
        }
        let mut digits = hash.finish().sha256;
        digits.truncate(DIGITS);
        Ok(digits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Shape, make_model};

    fn of(shape: Shape, seed: u64) -> String {
        let dir = tempfile::tempdir().unwrap();
        make_model(dir.path(), shape, seed).unwrap();
        let fingerprint = Checkpoint::open(dir.path()).unwrap().fingerprint();
        fingerprint.unwrap()
    }

    #[test]
    fn the_same_weights_have_the_same_name_and_others_another() {
        let name = of(Shape::Tiny, 1);
        assert_eq!(name, of(Shape::Tiny, 1));
        assert_ne!(name, of(Shape::Tiny, 2));
        assert_eq!(name.len(), DIGITS);
    }
}
