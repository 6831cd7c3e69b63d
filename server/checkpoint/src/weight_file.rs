//! A file of weights, read piece by piece.
//!
//! Not a memory map: where a file is shortened or its storage fails while it is read, a map ends the process with SIGBUS,
//! which says nothing. Here it is an error that names the file.

use crate::error::CheckpointError;
use crate::read;
use std::fs::{File, Metadata};
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::SystemTime;

/// Threads that read a large piece: one alone is slower than the storage.
const THREADS: usize = 8;
/// Bytes that are worth a thread of their own.
const SHARE: usize = 4 << 20;

/// A file, and what it was when it was opened.
pub(crate) struct WeightFile {
    path: PathBuf,
    file: File,
    state: State,
}

/// What changes when somebody writes a file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct State {
    length: u64,
    modified: Option<SystemTime>,
}

impl State {
    fn of(metadata: &Metadata) -> Self {
        Self {
            length: metadata.len(),
            modified: metadata.modified().ok(),
        }
    }
}

impl WeightFile {
    pub(crate) fn open(path: PathBuf) -> Result<Self, CheckpointError> {
        let file = read::open(&path)?;
        let metadata = file.metadata();
        let metadata = metadata.map_err(CheckpointError::while_doing(&path, "read"))?;
        Ok(Self {
            path,
            file,
            state: State::of(&metadata),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes that the file had when it was opened.
    pub(crate) fn length(&self) -> usize {
        usize::try_from(self.state.length).unwrap_or(usize::MAX)
    }

    /// Reads a part of the file, which must be what was opened.
    ///
    /// # Errors
    /// When the storage fails, or the file was written to since it was opened.
    pub(crate) fn read(&self, part: Range<usize>) -> Result<Vec<u8>, CheckpointError> {
        let outcome = self.read_at(part).and_then(|bytes| {
            let now = State::of(&self.file.metadata()?);
            Ok((bytes, now == self.state))
        });
        match outcome {
            Ok((bytes, true)) => Ok(bytes),
            Ok((_, false)) => Err(self.changed()),
            Err(cause) if cause.kind() == ErrorKind::UnexpectedEof => Err(self.changed()),
            Err(cause) => Err(CheckpointError::while_doing(&self.path, "read")(cause)),
        }
    }

    fn read_at(&self, part: Range<usize>) -> io::Result<Vec<u8>> {
        // A header's places were checked against the length: more than the file has is never asked for.
        if part.end > self.length() {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let mut bytes = vec![0; part.len()];
        let share = part.len().div_ceil(THREADS).max(SHARE);
        if part.len() <= share {
            self.file.read_exact_at(&mut bytes, part.start as u64)?;
            return Ok(bytes);
        }
        thread::scope(|scope| {
            let shares = bytes.chunks_mut(share).enumerate();
            let readers: Vec<_> = shares
                .map(|(number, bytes)| {
                    let start = part.start + number * share;
                    scope.spawn(move || self.file.read_exact_at(bytes, start as u64))
                })
                .collect();
            let failed = || Err(io::Error::other("a thread that read it failed"));
            let mut outcomes = readers.into_iter().map(|reader| reader.join());
            outcomes.try_for_each(|outcome| outcome.unwrap_or_else(|_| failed()))
        })?;
        Ok(bytes)
    }

    fn changed(&self) -> CheckpointError {
        CheckpointError::new(
            &self.path,
            "the file was changed while it was read: load it again when nobody writes to it",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, OpenOptions};

    fn file(length: usize) -> (tempfile::TempDir, PathBuf, Vec<u8>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weights");
        let content: Vec<u8> = (0..length).map(|number| (number % 251) as u8).collect();
        fs::write(&path, &content).unwrap();
        (dir, path, content)
    }

    #[test]
    fn any_part_is_read_as_it_is_in_the_file() {
        let (_dir, path, content) = file(5 * SHARE + 7);
        let opened = WeightFile::open(path).unwrap();
        for part in [
            0..content.len(),
            3..4 * SHARE,
            17..17,
            5 * SHARE..5 * SHARE + 7,
        ] {
            assert_eq!(opened.read(part.clone()).unwrap(), content[part]);
        }
    }

    #[test]
    fn a_file_that_is_shortened_meanwhile_is_named() {
        let (_dir, path, content) = file(3 * SHARE);
        let opened = WeightFile::open(path.clone()).unwrap();
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(SHARE as u64).unwrap();
        for part in [0..content.len(), 2 * SHARE..3 * SHARE] {
            let error = opened.read(part).unwrap_err();
            assert_eq!(error.path, path);
            assert!(error.problem.contains("was changed"), "{error}");
        }
    }

    #[test]
    fn a_file_that_is_written_to_meanwhile_is_named() {
        let (_dir, path, content) = file(100);
        let opened = WeightFile::open(path.clone()).unwrap();
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(b"x", 50).unwrap();
        let later = SystemTime::now() + std::time::Duration::from_secs(5);
        file.set_modified(later).unwrap();
        let error = opened.read(0..content.len()).unwrap_err();
        assert!(error.problem.contains("was changed"), "{error}");
    }

    #[test]
    fn storage_that_fails_is_named() {
        // The memory of a process is not mapped at its beginning: reading there is an input/output error.
        let opened = WeightFile {
            path: PathBuf::from("/models/weights"),
            file: File::open("/proc/self/mem").unwrap(),
            state: State {
                length: 100,
                modified: None,
            },
        };
        let error = opened.read(0..100).unwrap_err().to_string();
        assert!(
            error.starts_with("/models/weights: failed to read: "),
            "{error}"
        );
    }

    #[test]
    fn what_is_no_file_is_refused_before_it_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        for path in [dir.path(), &pipe, Path::new("/dev/zero")] {
            let error = WeightFile::open(path.to_owned()).err().unwrap();
            assert_eq!(error.problem, "it is not a file", "{}", path.display());
        }
    }
}
