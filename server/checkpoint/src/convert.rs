//! Writes a checkpoint again in bfloat16, in the Hugging Face layout, without holding its weights in memory.

mod file;
mod folder;
mod shards;

use crate::checkpoint::Checkpoint;
use crate::error::CheckpointError;
use crate::manifest::Manifest;
use crate::progress::Progress;
use crate::read;
use file::HashedFile;
use folder::PartialFolder;
use serde_json::Value;
use shards::{BYTES_PER_VALUE, plan, write_shards};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// Most bytes of tensors in one file, unless a single tensor has more; transformers' own limit.
const MAX_SHARD: u64 = 5_000_000_000;

/// What a weight file's name ends with: those are written anew, never copied.
const WEIGHTS: [&str; 9] = [
    ".safetensors",
    ".index.json",
    ".bin",
    ".gguf",
    ".pt",
    ".pth",
    ".ckpt",
    ".msgpack",
    ".onnx",
];

/// Writes the checkpoint with every tensor in bfloat16, rounded to nearest even, and a manifest of the files' SHA-256.
///
/// Tensors are read and written piece by piece, those that GGUF stores in blocks one by one. The folder has its name only when it is complete: until then it is
/// `.NAME.partial` beside it, which the next run for the same folder clears. Tensors that the configurations do not imply
/// are left out.
///
/// # Errors
/// When the folder is there and not empty, a tensor does not fit its configuration, or a file cannot be written. Nothing
/// is left behind then.
pub fn convert(
    checkpoint: &Checkpoint,
    out: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<(), CheckpointError> {
    Conversion {
        checkpoint,
        max_shard: MAX_SHARD,
    }
    .run(out, progress)
}

struct Conversion<'a> {
    checkpoint: &'a Checkpoint,
    max_shard: u64,
}

impl Conversion<'_> {
    fn run(&self, out: &Path, progress: &mut dyn FnMut(Progress)) -> Result<(), CheckpointError> {
        // A tensor that is missing is found before hours of writing, not after.
        self.checkpoint.verify()?;
        let folder = PartialFolder::create(out)?;
        let mut manifest = Manifest::default();
        for name in self.files()? {
            self.copy(&name, &folder, &mut manifest)?;
        }
        let total = self.total();
        let mut done = 0;
        let mut written = |bytes| {
            done += bytes;
            progress(Progress { done, total });
        };
        for &component in self.checkpoint.components() {
            let plan = plan(self.checkpoint.expected(component), self.max_shard);
            let files = write_shards(self.checkpoint, component, &plan, &folder, &mut written)?;
            files
                .into_iter()
                .for_each(|(name, entry)| manifest.add(name, entry));
        }
        manifest.write(folder.path())?;
        folder.finish()
    }

    /// Bytes of all tensors when they are written.
    fn total(&self) -> u64 {
        let components = self.checkpoint.components().iter();
        let tensors = components.flat_map(|&component| self.checkpoint.expected(component));
        tensors
            .map(|tensor| tensor.shape.iter().product::<usize>() as u64 * BYTES_PER_VALUE)
            .sum()
    }

    /// The files beside the weights, relative to the folder: of every part that `model_index.json` names, and the licence.
    fn files(&self) -> Result<Vec<String>, CheckpointError> {
        let dir = self.checkpoint.dir();
        let index = dir.join("model_index.json");
        let parts: serde_json::Map<String, Value> = read::json(&index)?;
        let mut names: Vec<String> = file_names(dir)?
            .into_iter()
            .filter(|name| name == "model_index.json" || name.starts_with("LICENSE"))
            .collect();
        for (part, value) in &parts {
            // A class and its library; null for a part that this model does not have.
            if !value
                .as_array()
                .is_some_and(|class| class.iter().any(Value::is_string))
            {
                continue;
            }
            let plain = Path::new(part)
                .file_name()
                .is_some_and(|name| name == part.as_str());
            if !plain {
                let problem = format!("{part:?} is not the name of a folder beside it");
                return Err(CheckpointError::new(index, problem));
            }
            let files = file_names(&dir.join(part))?.into_iter();
            names.extend(
                files
                    .filter(|name| !WEIGHTS.iter().any(|end| name.ends_with(end)))
                    .map(|name| format!("{part}/{name}")),
            );
        }
        Ok(names)
    }

    fn copy(
        &self,
        name: &str,
        folder: &PartialFolder,
        manifest: &mut Manifest,
    ) -> Result<(), CheckpointError> {
        let source = self.checkpoint.dir().join(name);
        let mut file = HashedFile::create(folder.path().join(name))?;
        if ["text_encoder/config.json", "siglip/config.json"].contains(&name) {
            file.write(&transformers_config(&source)?)?;
        } else {
            let mut from =
                File::open(&source).map_err(CheckpointError::while_doing(&source, "open"))?;
            file.copy(&mut from, &source)?;
        }
        manifest.add(name.to_owned(), file.finish()?);
        Ok(())
    }
}

/// The configuration with the number format that the weights have now. diffusers' configurations do not name one.
fn transformers_config(path: &Path) -> Result<Vec<u8>, CheckpointError> {
    let mut config: Value = read::json(path)?;
    for field in ["torch_dtype", "dtype"] {
        if let Some(dtype) = config.get_mut(field) {
            *dtype = Value::from("bfloat16");
        }
    }
    Ok(format!("{config:#}\n").into_bytes())
}

/// Names of a folder's files, sorted; hidden ones, which are no part of a checkpoint, left out.
fn file_names(folder: &Path) -> Result<Vec<String>, CheckpointError> {
    let paths = |entry: std::io::Result<fs::DirEntry>| entry.map(|entry| entry.path());
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)
        .and_then(|entries| entries.map(paths).collect())
        .map_err(CheckpointError::while_doing(folder, "list"))?;
    paths.sort();
    // `is_file` follows links: a hub's cache consists of them.
    let files = paths.iter().filter(|path| path.is_file());
    let names = files.filter_map(|path| path.file_name()?.to_str());
    Ok(names
        .filter(|name| !name.starts_with('.'))
        .map(str::to_owned)
        .collect())
}

#[cfg(test)]
mod tests;
