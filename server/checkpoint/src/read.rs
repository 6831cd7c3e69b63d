//! Bounded reading of small files and of configurations.

use crate::error::CheckpointError;
use crate::validate;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;

/// More than any tokenizer or index of a released model has; a larger file is not what its name says.
const MAX_BYTES: u64 = 64 << 20;

/// Opens a file. What is something else, such as a pipe, could keep whoever reads it waiting for ever.
pub(crate) fn open(path: &Path) -> Result<File, CheckpointError> {
    let metadata = fs::metadata(path).map_err(CheckpointError::while_doing(path, "open"))?;
    if !metadata.is_file() {
        return Err(CheckpointError::new(path, "it is not a file"));
    }
    File::open(path).map_err(CheckpointError::while_doing(path, "open"))
}

/// The content of a text file.
pub(crate) fn text(path: &Path) -> Result<String, CheckpointError> {
    let mut content = String::new();
    let length = open(path)?.take(MAX_BYTES + 1).read_to_string(&mut content);
    match length.map_err(CheckpointError::while_doing(path, "read"))? as u64 {
        0..=MAX_BYTES => Ok(content),
        _ => Err(CheckpointError::new(
            path,
            format_args!("the file has more than {MAX_BYTES} bytes"),
        )),
    }
}

/// The content of a JSON file.
pub(crate) fn json<T: DeserializeOwned>(path: &Path) -> Result<T, CheckpointError> {
    serde_json::from_str(&text(path)?).map_err(CheckpointError::while_doing(path, "read the JSON"))
}

/// Reads a configuration whose other fields do not ask for what is not implemented.
pub(crate) fn config<T: DeserializeOwned>(
    path: &Path,
    known: &[(&str, Value)],
    validate: impl FnOnce(&T) -> Result<(), String>,
) -> Result<T, CheckpointError> {
    let value: Value = json(path)?;
    validate::only_known(&value, known).map_err(|problem| CheckpointError::new(path, problem))?;
    let config = serde_json::from_value(value)
        .map_err(CheckpointError::while_doing(path, "read the configuration"))?;
    validate(&config).map_err(|problem| CheckpointError::new(path, problem))?;
    Ok(config)
}
