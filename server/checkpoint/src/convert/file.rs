//! A file whose SHA-256 is known when it is written.

use crate::error::CheckpointError;
use crate::manifest::{Entry, Hash};
use std::fs::{self, File};
use std::io::{self, BufWriter, ErrorKind, Read, Write as _};
use std::path::{Path, PathBuf};

/// Bytes that are read or written at once.
const BUFFER: usize = 1 << 20;

/// A new file, hashed while it is written.
pub(super) struct HashedFile {
    path: PathBuf,
    file: BufWriter<File>,
    hash: Hash,
}

impl HashedFile {
    /// A file that is not there yet, in a folder that may not be there yet.
    pub(super) fn create(path: PathBuf) -> Result<Self, CheckpointError> {
        let parent = path.parent().unwrap_or(Path::new("."));
        let file = fs::create_dir_all(parent).and_then(|()| File::create_new(&path));
        let file = file.map_err(|cause| failed(&path, cause))?;
        Ok(Self::new(path, file))
    }

    fn new(path: PathBuf, file: File) -> Self {
        Self {
            path,
            file: BufWriter::with_capacity(BUFFER, file),
            hash: Hash::default(),
        }
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), CheckpointError> {
        self.hash.update(bytes);
        let written = self.file.write_all(bytes);
        written.map_err(|cause| failed(&self.path, cause))
    }

    /// Writes all that another file has.
    pub(super) fn copy(
        &mut self,
        from: &mut impl Read,
        source: &Path,
    ) -> Result<(), CheckpointError> {
        let mut buffer = vec![0; BUFFER];
        loop {
            match from.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(length) => self.write(&buffer[..length])?,
                Err(cause) if cause.kind() == ErrorKind::Interrupted => {}
                Err(cause) => return Err(CheckpointError::while_doing(source, "read")(cause)),
            }
        }
    }

    /// Waits until the file is on the disk.
    pub(super) fn finish(mut self) -> Result<Entry, CheckpointError> {
        let synced = self
            .file
            .flush()
            .and_then(|()| self.file.get_ref().sync_all());
        synced.map_err(|cause| failed(&self.path, cause))?;
        Ok(self.hash.finish())
    }
}

/// What went wrong while a file was written.
pub(super) fn failed(path: &Path, cause: io::Error) -> CheckpointError {
    match cause.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            CheckpointError::new(path, "failed to write: the disk is full")
        }
        _ => CheckpointError::while_doing(path, "write")(cause),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_said_so() {
        let device = PathBuf::from("/dev/full");
        let mut file = HashedFile::new(device.clone(), File::create(&device).unwrap());
        let error = file.write(&vec![0; 2 * BUFFER]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "/dev/full: failed to write: the disk is full"
        );
    }
}
