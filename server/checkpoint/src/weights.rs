//! One component's safetensors files, mapped into memory.

use crate::component::Component;
use crate::error::CheckpointError;
use crate::read;
use memmap2::Mmap;
use safetensors::SafeTensors;
use safetensors::tensor::Metadata;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};

/// How a tensor's values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DType {
    /// IEEE 754 single precision.
    F32,
    /// The upper half of a single precision number.
    BF16,
    /// IEEE 754 half precision.
    F16,
}

/// A tensor in a mapped file.
#[derive(Clone, Copy, Debug)]
pub struct TensorView<'a> {
    /// How the values are stored.
    pub dtype: DType,
    /// Dimensions, outermost first.
    pub shape: &'a [usize],
    /// The values, little-endian, row by row. Not aligned.
    pub bytes: &'a [u8],
}

impl TensorView<'_> {
    /// The values as single precision numbers.
    pub fn to_f32(&self) -> Vec<f32> {
        match self.dtype {
            DType::F32 => values(self.bytes, f32::from_le_bytes),
            DType::BF16 => values(self.bytes, |bytes| {
                half::bf16::from_le_bytes(bytes).to_f32()
            }),
            DType::F16 => values(self.bytes, |bytes| half::f16::from_le_bytes(bytes).to_f32()),
        }
    }
}

fn values<const N: usize>(bytes: &[u8], read: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    let (numbers, _) = bytes.as_chunks::<N>();
    numbers.iter().map(|&number| read(number)).collect()
}

/// One component's tensors by name.
pub(crate) struct Weights {
    /// The index, or the only file: named when a tensor is missing.
    path: PathBuf,
    shards: Vec<Shard>,
    /// Which shard has the tensor, and the tensor's name there.
    tensors: HashMap<String, (usize, String)>,
}

struct Shard {
    path: PathBuf,
    map: Mmap,
    /// Where the tensors' bytes begin.
    data: usize,
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Weights {
    /// Maps the files that the component's index names, or its only file.
    pub(crate) fn open(dir: &Path, component: Component) -> Result<Self, CheckpointError> {
        let folder = dir.join(component.folder());
        let single = format!("{}.safetensors", component.stem());
        let index_path = folder.join(format!("{single}.index.json"));
        let mut weights = if index_path.exists() {
            Self::open_index(&folder, index_path)?
        } else {
            let shard = Shard::open(folder.join(single))?;
            let names = shard.metadata.offset_keys();
            Self {
                path: shard.path.clone(),
                shards: vec![shard],
                tensors: names
                    .into_iter()
                    .map(|name| (name.clone(), (0, name)))
                    .collect(),
            }
        };
        let prefix = component.optional_prefix();
        if !prefix.is_empty() {
            let tensors = weights.tensors.into_iter();
            weights.tensors = tensors
                .map(|(name, place)| (name.strip_prefix(prefix).unwrap_or(&name).to_owned(), place))
                .collect();
        }
        Ok(weights)
    }

    fn open_index(folder: &Path, path: PathBuf) -> Result<Self, CheckpointError> {
        let Index { weight_map } = read::json(&path)?;
        let files: BTreeSet<&String> = weight_map.values().collect();
        let mut shards = Vec::with_capacity(files.len());
        let mut numbers = HashMap::new();
        for file in files {
            // An index could otherwise make us read any file of the machine.
            if Path::new(file)
                .file_name()
                .is_none_or(|name| name != file.as_str())
            {
                return Err(CheckpointError::new(
                    &path,
                    format_args!("{file:?} is not the name of a file beside it"),
                ));
            }
            numbers.insert(file.clone(), shards.len());
            shards.push(Shard::open(folder.join(file))?);
        }
        let mut tensors = HashMap::with_capacity(weight_map.len());
        for (name, file) in weight_map {
            let number = numbers[&file];
            let shard: &Shard = &shards[number];
            if shard.metadata.info(&name).is_none() {
                let problem = format!("has no tensor {name:?}, which the index says is there");
                return Err(CheckpointError::new(&shard.path, problem));
            }
            tensors.insert(name.clone(), (number, name));
        }
        Ok(Self {
            path,
            shards,
            tensors,
        })
    }

    /// The tensor of that name.
    pub(crate) fn tensor(&self, name: &str) -> Result<TensorView<'_>, CheckpointError> {
        let (number, stored) = self.tensors.get(name).ok_or_else(|| {
            CheckpointError::new(&self.path, format_args!("there is no tensor {name:?}"))
        })?;
        let shard = &self.shards[*number];
        let missing =
            || CheckpointError::new(&shard.path, format_args!("there is no tensor {stored:?}"));
        let info = shard.metadata.info(stored).ok_or_else(missing)?;
        let dtype = match info.dtype {
            safetensors::Dtype::F32 => DType::F32,
            safetensors::Dtype::BF16 => DType::BF16,
            safetensors::Dtype::F16 => DType::F16,
            other => {
                let problem =
                    format!("tensor {stored:?} is stored as {other:?}; F32, BF16 and F16 are read");
                return Err(CheckpointError::new(&shard.path, problem));
            }
        };
        let (start, end) = info.data_offsets;
        Ok(TensorView {
            dtype,
            shape: &info.shape,
            bytes: shard
                .map
                .get(shard.data + start..shard.data + end)
                .ok_or_else(missing)?,
        })
    }

    /// The file that has the tensor.
    pub(crate) fn path_of(&self, name: &str) -> &Path {
        self.tensors
            .get(name)
            .map_or(&self.path, |(number, _)| &self.shards[*number].path)
    }
}

impl Shard {
    fn open(path: PathBuf) -> Result<Self, CheckpointError> {
        let file = File::open(&path).map_err(CheckpointError::while_doing(&path, "open"))?;
        let map = map(&file).map_err(CheckpointError::while_doing(&path, "map"))?;
        // Checks the header's length, that the tensors fill the file without gaps, and each tensor's size.
        let (header, metadata) = SafeTensors::read_metadata(&map)
            .map_err(CheckpointError::while_doing(&path, "read the header"))?;
        let data = header + size_of::<u64>();
        Ok(Self {
            path,
            map,
            data,
            metadata,
        })
    }
}

#[expect(
    unsafe_code,
    reason = "weights are larger than memory may be; only a map reads them lazily"
)]
fn map(file: &File) -> std::io::Result<Mmap> {
    // SAFETY: the map is private and read-only. What the kernel cannot rule out is that another process shortens the
    // file, which ends this one with SIGBUS: checkpoints are complete before they are opened (`write_once` renames) and
    // are never written again.
    unsafe { Mmap::map(file) }
}
