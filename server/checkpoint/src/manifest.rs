//! `zimage-manifest.json`: the size and SHA-256 of each of a checkpoint's files, to find damage with.
//!
//! ```json
//! {"version": 1, "files": {"model_index.json": {"size": 467, "sha256": "0f3a…"}, "vae/config.json": {…}}}
//! ```

mod hash;

pub(crate) use hash::Hash;

use crate::error::CheckpointError;
use crate::progress::Progress;
use crate::read;
use crate::write::write_once;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path};

/// The manifest's name in a checkpoint's folder.
pub const MANIFEST: &str = "zimage-manifest.json";

/// The form that is written and read here.
const VERSION: u32 = 1;

/// What a checkpoint's files must be.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    version: u32,
    /// By path relative to the folder, with slashes.
    files: BTreeMap<String, Entry>,
}

/// What one file must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// Bytes.
    size: u64,
    /// In hexadecimal, lower case.
    pub(crate) sha256: String,
}

impl Default for Manifest {
    fn default() -> Self {
        Self {
            version: VERSION,
            files: BTreeMap::new(),
        }
    }
}

impl Manifest {
    pub(crate) fn add(&mut self, name: String, entry: Entry) {
        self.files.insert(name, entry);
    }

    pub(crate) fn write(&self, dir: &Path) -> Result<(), CheckpointError> {
        let path = dir.join(MANIFEST);
        let text = serde_json::to_string_pretty(self)
            .map_err(CheckpointError::while_doing(&path, "encode"))?;
        write_once(&path, format!("{text}\n").as_bytes())
    }

    /// The folder's manifest, when it has one.
    fn open(dir: &Path) -> Result<Option<Self>, CheckpointError> {
        let path = dir.join(MANIFEST);
        if !path.exists() {
            return Ok(None);
        }
        let manifest: Self = read::json(&path)?;
        if manifest.version != VERSION {
            let problem = format!(
                "its version is {}; only {VERSION} is read",
                manifest.version
            );
            return Err(CheckpointError::new(path, problem));
        }
        // A manifest could otherwise make us read any file of the machine.
        let outside = |name: &&String| {
            let mut parts = Path::new(name.as_str()).components();
            name.is_empty() || !parts.all(|part| matches!(part, Component::Normal(_)))
        };
        match manifest.files.keys().find(outside) {
            Some(name) => {
                let problem = format!("{name:?} is not a path inside the folder");
                Err(CheckpointError::new(path, problem))
            }
            None => Ok(Some(manifest)),
        }
    }

    fn check(&self, dir: &Path, progress: &mut dyn FnMut(Progress)) -> Vec<CheckpointError> {
        let mut faults = Vec::new();
        let mut sound = Vec::new();
        // Sizes first: that a file is missing is known at once, what it holds only after it was read.
        for (name, entry) in &self.files {
            let path = dir.join(name);
            match size(&path) {
                Ok(size) if size == entry.size => sound.push((path, entry)),
                Ok(size) => {
                    let problem = format!(
                        "the file has {size} bytes; the manifest says {}",
                        entry.size
                    );
                    faults.push(CheckpointError::new(path, problem));
                }
                Err(fault) => faults.push(fault),
            }
        }
        let total = sound.iter().map(|(_, entry)| entry.size).sum();
        let mut done = 0;
        for (path, entry) in sound {
            let mut read = |bytes| {
                done += bytes;
                progress(Progress { done, total });
            };
            match Hash::of_file(&path, &mut read) {
                Ok(found) if found == *entry => {}
                Ok(found) => {
                    let (found, wanted) = (found.sha256, &entry.sha256);
                    let problem =
                        format!("the file's SHA-256 is {found}; the manifest says {wanted}");
                    faults.push(CheckpointError::new(path, problem));
                }
                Err(fault) => faults.push(fault),
            }
        }
        faults
    }
}

fn size(path: &Path) -> Result<u64, CheckpointError> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => Ok(metadata.len()),
        Ok(_) => Err(CheckpointError::new(path, "it is no file")),
        Err(cause) => Err(CheckpointError::while_doing(path, "open")(cause)),
    }
}

/// Compares the files of a checkpoint's folder with its manifest, and gives the number of files. None without a manifest.
///
/// # Errors
/// Every file that is missing, has another size or another SHA-256; or that the manifest itself is damaged.
pub fn check_manifest(
    dir: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<Option<usize>, Vec<CheckpointError>> {
    let Some(manifest) = Manifest::open(dir).map_err(|fault| vec![fault])? else {
        return Ok(None);
    };
    let faults = manifest.check(dir, progress);
    if faults.is_empty() {
        Ok(Some(manifest.files.len()))
    } else {
        Err(faults)
    }
}

#[cfg(test)]
mod tests;
