//! SHA-256 of what is written or read.

use super::Entry;
use crate::error::CheckpointError;
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::Path;

/// Bytes that are read at once.
const BUFFER: usize = 1 << 20;

/// Hashes and counts bytes.
#[derive(Default)]
pub(crate) struct Hash {
    size: u64,
    sha256: Sha256,
}

impl Hash {
    /// A file's. Tells how many bytes it read as it goes on.
    pub(super) fn of_file(
        path: &Path,
        read: &mut dyn FnMut(u64),
    ) -> Result<Entry, CheckpointError> {
        let mut file = File::open(path).map_err(CheckpointError::while_doing(path, "open"))?;
        let mut hash = Self::default();
        let mut buffer = vec![0; BUFFER];
        loop {
            match file.read(&mut buffer) {
                Ok(0) => return Ok(hash.finish()),
                Ok(length) => {
                    hash.update(&buffer[..length]);
                    read(length as u64);
                }
                Err(cause) if cause.kind() == ErrorKind::Interrupted => {}
                Err(cause) => return Err(CheckpointError::while_doing(path, "read")(cause)),
            }
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.size += bytes.len() as u64;
        self.sha256.update(bytes);
    }

    pub(crate) fn finish(self) -> Entry {
        let digest = self.sha256.finalize();
        Entry {
            size: self.size,
            sha256: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
        }
    }
}
