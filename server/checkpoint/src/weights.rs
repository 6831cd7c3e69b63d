//! One component's tensors, in as many files as there are.

use crate::component::Component;
use crate::error::CheckpointError;
use crate::read;
use crate::shard::Shard;
use crate::single_file;
use crate::stored::{Dequantize, Names, Place, Stored};
use crate::tensor::TensorView;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

/// One component's tensors by name.
pub(crate) struct Weights {
    /// The index, or the only file: named when a tensor is missing.
    path: PathBuf,
    shards: Vec<Shard>,
    /// Which shard has the tensor, and where.
    tensors: HashMap<String, (usize, Place)>,
}

/// What a `*.safetensors.index.json` holds.
#[derive(Deserialize)]
pub(crate) struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Index {
    /// Names of the files beside it.
    pub(crate) fn files(&self) -> Result<BTreeSet<&str>, String> {
        let files: BTreeSet<&str> = self.weight_map.values().map(String::as_str).collect();
        // An index could otherwise make us read any file of the machine.
        let elsewhere = |file: &&&str| {
            Path::new(file)
                .file_name()
                .is_none_or(|name| name != **file)
        };
        match files.iter().find(elsewhere) {
            Some(file) => Err(format!("{file:?} is not the name of a file beside it")),
            None => Ok(files),
        }
    }
}

impl Weights {
    /// Opens the files that the component's index names, or its only file.
    pub(crate) fn open(dir: &Path, component: Component) -> Result<Self, CheckpointError> {
        let folder = dir.join(component.folder());
        Self::open_folder(&folder, component.stem(), component.optional_prefix())
    }

    /// As [`Self::open`] for a folder of any name, whose tensors' names may begin with a prefix.
    pub(crate) fn open_folder(
        folder: &Path,
        stem: &str,
        prefix: &str,
    ) -> Result<Self, CheckpointError> {
        let single = format!("{stem}.safetensors");
        let index = folder.join(format!("{single}.index.json"));
        let rename =
            |name: &str| vec![(name.strip_prefix(prefix).unwrap_or(name).to_owned(), None)];
        if index.exists() {
            Self::open_index(folder, index, rename)
        } else {
            Self::of_shard(Shard::open(folder.join(single))?, rename)
        }
    }

    /// Opens one file with diffusers' names.
    pub(crate) fn open_diffusers_file(path: &Path) -> Result<Self, CheckpointError> {
        Self::of_shard(Shard::open(path.to_owned())?, |name| {
            vec![(name.to_owned(), None)]
        })
    }

    /// Opens a transformer in one file, with ComfyUI's names or diffusers'.
    pub(crate) fn open_transformer_file(
        path: &Path,
        dequantize: Dequantize,
    ) -> Result<Self, CheckpointError> {
        let shard = Shard::open(path.to_owned())?.dequantized_by(dequantize);
        Self::of_shard(shard, single_file::transformer_names)
    }

    fn of_shard(shard: Shard, rename: impl Fn(&str) -> Names) -> Result<Self, CheckpointError> {
        let stored = shard.names().into_iter();
        let tensors = stored
            .flat_map(|stored| places(0, &stored, &rename))
            .collect();
        Ok(Self {
            path: shard.path().to_owned(),
            shards: vec![shard],
            tensors,
        })
    }

    fn open_index(
        folder: &Path,
        path: PathBuf,
        rename: impl Fn(&str) -> Names,
    ) -> Result<Self, CheckpointError> {
        let index: Index = read::json(&path)?;
        let files = index
            .files()
            .map_err(|problem| CheckpointError::new(&path, problem))?;
        let mut shards = Vec::with_capacity(files.len());
        let mut numbers = HashMap::new();
        for file in files {
            numbers.insert(file, shards.len());
            shards.push(Shard::open(folder.join(file))?);
        }
        let mut tensors = HashMap::with_capacity(index.weight_map.len());
        for (stored, file) in &index.weight_map {
            let number = numbers[file.as_str()];
            let shard: &Shard = &shards[number];
            if !shard.has(stored) {
                let problem = format!("has no tensor {stored:?}, which the index says is there");
                return Err(CheckpointError::new(shard.path(), problem));
            }
            tensors.extend(places(number, stored, &rename));
        }
        Ok(Self {
            path,
            shards,
            tensors,
        })
    }

    /// The tensor of that name.
    pub(crate) fn tensor(&self, name: &str) -> Result<TensorView<'_>, CheckpointError> {
        let (shard, place) = self.place(name)?;
        shard.tensor(place)
    }

    /// How the tensor of that name is stored, and up to `most` of its first bytes.
    pub(crate) fn beginning(
        &self,
        name: &str,
        most: usize,
    ) -> Result<(Stored, Vec<u8>), CheckpointError> {
        let (shard, place) = self.place(name)?;
        shard.beginning(place, most)
    }

    /// The shape of the tensor of that name, which is not read.
    pub(crate) fn shape(&self, name: &str) -> Result<Vec<usize>, CheckpointError> {
        let (shard, place) = self.place(name)?;
        shard.shape(place)
    }

    fn place(&self, name: &str) -> Result<(&Shard, &Place), CheckpointError> {
        let missing =
            || CheckpointError::new(&self.path, format_args!("there is no tensor {name:?}"));
        let (number, place) = self.tensors.get(name).ok_or_else(missing)?;
        Ok((&self.shards[*number], place))
    }

    /// The tensor of that name, which must have this shape.
    pub(crate) fn tensor_of_shape(
        &self,
        name: &str,
        shape: &[usize],
    ) -> Result<TensorView<'_>, CheckpointError> {
        self.check_shape(name, shape)?;
        Ok(TensorView {
            shape: shape.to_vec(),
            ..self.tensor(name)?
        })
    }

    /// Reads no values: those of a GGUF file would have to be computed.
    pub(crate) fn check_shape(&self, name: &str, shape: &[usize]) -> Result<(), CheckpointError> {
        let stored = self.shape(name)?;
        // GGUF's tools drop outer dimensions of one.
        let significant = |shape: &[usize]| {
            let outer = shape.iter().take_while(|&&length| length == 1).count();
            shape[outer..].to_vec()
        };
        if significant(&stored) == significant(shape) {
            return Ok(());
        }
        let problem = format!("tensor {name:?} has shape {stored:?}; {shape:?} is needed");
        Err(CheckpointError::new(self.path_of(name), problem))
    }

    /// The index, or the only file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The file that has the tensor.
    pub(crate) fn path_of(&self, name: &str) -> &Path {
        let place = self.tensors.get(name);
        place.map_or(&self.path, |(number, _)| self.shards[*number].path())
    }
}

fn places(
    shard: usize,
    stored: &str,
    rename: impl Fn(&str) -> Names,
) -> Vec<(String, (usize, Place))> {
    let place = |third| Place {
        stored: stored.to_owned(),
        third,
    };
    let names = rename(stored).into_iter();
    names
        .map(|(name, third)| (name, (shard, place(third))))
        .collect()
}
