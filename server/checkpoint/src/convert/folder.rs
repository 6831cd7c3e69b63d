//! A folder that has its name only when it is complete.

use super::file::failed;
use crate::error::CheckpointError;
use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// A folder under a temporary name, which goes when it is dropped unfinished.
pub(super) struct PartialFolder {
    out: PathBuf,
    partial: PathBuf,
    /// Held: the lock says that the folder is being written, and ends with the process however that ends.
    _lock: File,
}

impl PartialFolder {
    /// `.NAME.partial` beside a folder that is not there or is empty. What a stopped run left in it is removed.
    pub(super) fn create(out: &Path) -> Result<Self, CheckpointError> {
        refuse_full(out)?;
        let Some(name) = out.file_name() else {
            return Err(CheckpointError::new(out, "the folder needs a name"));
        };
        let parent = parent(out);
        fs::create_dir_all(parent).map_err(|cause| failed(parent, cause))?;
        let partial = parent.join(format!(".{}.partial", name.to_string_lossy()));
        match fs::create_dir(&partial) {
            Err(cause) if cause.kind() != ErrorKind::AlreadyExists => {
                return Err(failed(&partial, cause));
            }
            _ => {}
        }
        let lock = lock(&partial)?;
        clear(&partial).map_err(CheckpointError::while_doing(&partial, "clear"))?;
        Ok(Self {
            out: out.to_owned(),
            partial,
            _lock: lock,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.partial
    }

    /// Gives the folder its name.
    pub(super) fn finish(self) -> Result<(), CheckpointError> {
        let parent = parent(&self.out);
        // Replaces an empty folder and nothing else.
        let renamed = fs::rename(&self.partial, &self.out)
            .and_then(|()| File::open(parent).and_then(|parent| parent.sync_all()));
        renamed.map_err(CheckpointError::while_doing(&self.out, "rename"))
    }
}

impl Drop for PartialFolder {
    fn drop(&mut self) {
        // Not there once it has its name. If it cannot be removed, the next run clears it.
        let _ = fs::remove_dir_all(&self.partial);
    }
}

fn parent(out: &Path) -> &Path {
    let parent = out.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or(Path::new("."))
}

fn refuse_full(out: &Path) -> Result<(), CheckpointError> {
    match fs::read_dir(out).map(|mut entries| entries.next().is_some()) {
        Ok(false) => Ok(()),
        Ok(true) => Err(CheckpointError::new(
            out,
            "the folder is not empty; choose a new or an empty one",
        )),
        Err(cause) if cause.kind() == ErrorKind::NotFound => Ok(()),
        Err(cause) => Err(CheckpointError::while_doing(out, "list")(cause)),
    }
}

fn lock(partial: &Path) -> Result<File, CheckpointError> {
    // A link could lead to a folder that is not ours to clear.
    let is_folder = fs::symlink_metadata(partial).is_ok_and(|metadata| metadata.is_dir());
    if !is_folder {
        return Err(CheckpointError::new(
            partial,
            "it is in the way: it is no folder",
        ));
    }
    let folder = File::open(partial).map_err(CheckpointError::while_doing(partial, "open"))?;
    match folder.try_lock() {
        Ok(()) => Ok(folder),
        Err(TryLockError::WouldBlock) => Err(CheckpointError::new(
            partial,
            "another process is writing it",
        )),
        Err(TryLockError::Error(cause)) => {
            Err(CheckpointError::while_doing(partial, "lock")(cause))
        }
    }
}

fn clear(folder: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
