//! Looks for values that no image can be made with.

use crate::checkpoint::Checkpoint;
use crate::component::Component;
use crate::error::CheckpointError;
use crate::tensor::TensorView;

impl Checkpoint {
    /// Reads every tensor, and with it what the LoRAs make of it: all values must be finite. Takes as long as the storage.
    ///
    /// # Errors
    /// Names the first tensor with another value and its file, or the LoRA that makes it one; or what cannot be read.
    pub fn check_values(&self) -> Result<(), CheckpointError> {
        for &component in self.components() {
            for expected in self.expected(component) {
                self.check_tensor(component, &expected.name)?;
            }
        }
        Ok(())
    }

    /// Reads one tensor, as [`Self::check_values`] reads all.
    ///
    /// # Errors
    /// As for all.
    pub fn check_tensor(&self, component: Component, name: &str) -> Result<(), CheckpointError> {
        let weights = self.weights(component)?;
        if !is_finite(&weights.tensor(name)?) {
            let problem = format!("tensor {name:?} has values that are NaN or infinite");
            return Err(CheckpointError::new(weights.path_of(name), problem));
        }
        let mut changing = self.loras().iter().filter(|lora| lora.changes_tensor(name));
        let (Component::Transformer, Some(lora)) = (component, changing.next()) else {
            return Ok(());
        };
        if is_finite(&self.tensor(component, name)?) {
            return Ok(());
        }
        let others = changing.count();
        let with = match others {
            0 => String::new(),
            _ => format!(" together with {others} more"),
        };
        let problem = format!("makes values of tensor {name:?} NaN or infinite{with}");
        Err(CheckpointError::new(lora.path(), problem))
    }
}

fn is_finite(tensor: &TensorView<'_>) -> bool {
    /// Values that are converted at a time.
    const PIECE: usize = 1 << 16;
    let finite = |piece: TensorView<'_>| piece.to_f32().iter().all(|value| value.is_finite());
    tensor.pieces(PIECE).all(finite)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Lora, Shape, make_model};
    use safetensors::SafeTensors;
    use std::fs;
    use std::path::Path;

    /// Makes the first value of a tensor NaN.
    fn spoil(path: &Path, name: &str) {
        let mut file = fs::read(path).unwrap();
        let place = SafeTensors::deserialize(&file)
            .unwrap()
            .tensor(name)
            .unwrap()
            .data()
            .as_ptr();
        let start = place as usize - file.as_ptr() as usize;
        // Of bfloat16 and of float32.
        file[start..start + 4].fill(0xff);
        fs::write(path, file).unwrap();
    }

    #[test]
    fn a_weight_that_is_no_number_is_named_with_its_file() {
        let dir = tempfile::tempdir().unwrap();
        make_model(dir.path(), Shape::Tiny, 1).unwrap();
        Checkpoint::open(dir.path())
            .unwrap()
            .check_values()
            .unwrap();
        let file = dir.path().join("vae/diffusion_pytorch_model.safetensors");
        spoil(&file, "decoder.conv_in.weight");
        let error = Checkpoint::open(dir.path())
            .unwrap()
            .check_values()
            .unwrap_err();
        assert_eq!(error.path, file);
        assert!(
            error.problem.contains("\"decoder.conv_in.weight\""),
            "{error}"
        );
    }

    #[test]
    fn a_lora_that_spoils_a_weight_is_named() {
        let dir = tempfile::tempdir().unwrap();
        make_model(dir.path(), Shape::Tiny, 1).unwrap();
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        let name = "layers.0.attention.to_q";
        let expected = checkpoint.expected(Component::Transformer);
        let weight = expected
            .iter()
            .find(|tensor| tensor.name == format!("{name}.weight"));
        let [rows, columns] = weight.unwrap().shape[..] else {
            panic!("no matrix");
        };
        let nan = f32::NAN.to_le_bytes();
        let values = nan.repeat(rows.max(columns));
        let view = |shape: Vec<usize>| {
            let length = 4 * shape.iter().product::<usize>();
            safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape, &values[..length])
        };
        let lora = dir.path().join("lora.safetensors");
        let tensors = [
            (
                format!("{name}.lora_A.weight"),
                view(vec![1, columns]).unwrap(),
            ),
            (
                format!("{name}.lora_B.weight"),
                view(vec![rows, 1]).unwrap(),
            ),
        ];
        safetensors::serialize_to_file(tensors, None, &lora).unwrap();
        let loras = vec![Lora::open(&lora, 1.0).unwrap()];
        let error = checkpoint
            .with_loras(loras)
            .unwrap()
            .check_values()
            .unwrap_err();
        assert_eq!(error.path, lora);
        assert!(error.problem.contains(name), "{error}");
    }
}
