//! Files that are either complete or not there.

use crate::error::CheckpointError;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

/// Writes a file under a temporary name and renames it, creating its folder. A file with the same content stays.
///
/// # Errors
/// When another file has the name: a checkpoint is never overwritten.
pub(crate) fn write_once(path: &Path, content: &[u8]) -> Result<(), CheckpointError> {
    if let Ok(metadata) = fs::symlink_metadata(path) {
        let same = metadata.len() == content.len() as u64
            && fs::read(path).is_ok_and(|old| old == content);
        return if same {
            Ok(())
        } else {
            Err(CheckpointError::new(
                path,
                "the file is already there with another content; choose an empty folder",
            ))
        };
    }
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)
        .map_err(CheckpointError::while_doing(folder, "create the folder"))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let partial = folder.join(format!(".{name}.{}.partial", std::process::id()));
    let written = File::create(&partial).and_then(|mut file| {
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&partial, path)
    });
    written.map_err(|cause| {
        // The cause matters more than a file that cannot be removed.
        let _ = fs::remove_file(&partial);
        CheckpointError::while_doing(path, "write")(cause)
    })
}
