//! One component's tensors as bfloat16, in files of a bounded size.

use super::file::HashedFile;
use super::folder::PartialFolder;
use crate::checkpoint::Checkpoint;
use crate::component::Component;
use crate::error::CheckpointError;
use crate::layout::Expected;
use crate::manifest::Entry;
use crate::tensor::{DType, TensorView};
use half::bf16;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Bytes of a bfloat16 number.
pub(super) const BYTES_PER_VALUE: u64 = 2;

/// Values that are converted at once.
const PIECE: usize = 1 << 18;

/// Divides tensors into files, in their order.
pub(super) fn plan(tensors: Vec<Expected>, max_bytes: u64) -> Vec<Vec<Expected>> {
    let mut files: Vec<Vec<Expected>> = Vec::new();
    let mut room = 0;
    for tensor in tensors {
        let bytes = bytes(&tensor);
        match files.last_mut() {
            Some(file) if bytes <= room => {
                room -= bytes;
                file.push(tensor);
            }
            _ => {
                room = max_bytes.saturating_sub(bytes);
                files.push(vec![tensor]);
            }
        }
    }
    files
}

fn bytes(tensor: &Expected) -> u64 {
    tensor.shape.iter().product::<usize>() as u64 * BYTES_PER_VALUE
}

/// Writes a component's files, with an index when there are several, and tells their names and hashes.
pub(super) fn write_shards(
    checkpoint: &Checkpoint,
    component: Component,
    plan: &[Vec<Expected>],
    folder: &PartialFolder,
    written: &mut dyn FnMut(u64),
) -> Result<Vec<(String, Entry)>, CheckpointError> {
    let (part, stem) = (component.folder(), component.stem());
    let mut files = Vec::with_capacity(plan.len() + 1);
    let mut weight_map = BTreeMap::new();
    for (number, tensors) in (1..).zip(plan) {
        let name = match plan.len() {
            1 => format!("{stem}.safetensors"),
            count => format!("{stem}-{number:05}-of-{count:05}.safetensors"),
        };
        let path = format!("{part}/{name}");
        let mut file = HashedFile::create(folder.path().join(&path))?;
        file.write(&header(tensors))?;
        for Expected { name, shape } in tensors {
            let tensor = checkpoint.tensor_of_shape(component, name, shape)?;
            write_tensor(&mut file, &tensor, written)?;
        }
        files.push((path, file.finish()?));
        weight_map.extend(tensors.iter().map(|tensor| (&tensor.name, name.clone())));
    }
    if plan.len() > 1 {
        let total: u64 = plan.iter().flatten().map(bytes).sum();
        let index = json!({"metadata": {"total_size": total}, "weight_map": weight_map});
        let path = format!("{part}/{stem}.safetensors.index.json");
        let mut file = HashedFile::create(folder.path().join(&path))?;
        file.write(format!("{index:#}\n").as_bytes())?;
        files.push((path, file.finish()?));
    }
    Ok(files)
}

/// A safetensors file up to its first tensor. Follows <https://huggingface.co/docs/safetensors/index#format>.
fn header(tensors: &[Expected]) -> Vec<u8> {
    let mut fields = Map::new();
    // transformers refuses a file that does not name its framework.
    fields.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    let mut offset = 0;
    for tensor in tensors {
        let end = offset + bytes(tensor);
        let field = json!({"dtype": "BF16", "shape": tensor.shape, "data_offsets": [offset, end]});
        fields.insert(tensor.name.clone(), field);
        offset = end;
    }
    let mut text = Value::Object(fields).to_string();
    // The tensors are aligned for readers that map the file.
    let padding = text.len().next_multiple_of(8) - text.len();
    text.extend(std::iter::repeat_n(' ', padding));
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

fn write_tensor(
    file: &mut HashedFile,
    tensor: &TensorView<'_>,
    written: &mut dyn FnMut(u64),
) -> Result<(), CheckpointError> {
    for piece in tensor.pieces(PIECE) {
        let length = if piece.dtype == DType::BF16 {
            file.write(&piece.bytes)?;
            piece.bytes.len()
        } else {
            let values = piece.to_f32().into_iter();
            // Rounds to nearest even.
            let rounded: Vec<u8> = values
                .flat_map(|value| bf16::from_f32(value).to_le_bytes())
                .collect();
            file.write(&rounded)?;
            rounded.len()
        };
        written(length as u64);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(values: usize) -> Expected {
        Expected {
            name: values.to_string(),
            shape: vec![values],
        }
    }

    #[test]
    fn files_are_filled_in_order_and_a_large_tensor_has_its_own() {
        let tensors: Vec<Expected> = [1, 2, 3, 9, 1, 4].map(tensor).to_vec();
        let plan = plan(tensors, 10);
        let sizes = |file: &Vec<Expected>| file.iter().map(|tensor| tensor.shape[0]).collect();
        let sizes: Vec<Vec<usize>> = plan.iter().map(sizes).collect();
        assert_eq!(sizes, [vec![1, 2], vec![3], vec![9], vec![1, 4]]);
    }
}
