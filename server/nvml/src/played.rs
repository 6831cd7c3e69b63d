//! A management library that is built here and says what a test wants.

use crate::Gpus;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// For what happens within milliseconds on a machine that does nothing else.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Of `nvmlReturn_t`: the driver is not there, the GPU has left its bus, and what has no name.
pub(crate) const DRIVER_NOT_LOADED: i32 = -9;
pub(crate) const GPU_IS_LOST: i32 = -15;
pub(crate) const UNKNOWN: i32 = -999;

/// What the library never answers to.
const HANGS: i32 = -10_000;

/// A GPU, half busy, whose library says what a test wants. Another, a quarter busy, is found by its UUID alone.
pub(crate) struct Played {
    dir: tempfile::TempDir,
    pub(crate) gpus: Gpus,
}

impl Played {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let library = dir.path().join("libnvidia-ml.so.1");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src/nvml.c");
        let play = format!("-DPLAY=\"{}\"", dir.path().join("play").display());
        let mut build = Command::new("cc");
        build
            .args(["-shared", "-fPIC", &play, "-o"])
            .arg(&library)
            .arg(source);
        assert!(build.status().unwrap().success(), "a C compiler is needed");
        let gpus = Gpus::of(&library);
        assert_eq!(gpus.count(), 1);
        Self { dir, gpus }
    }

    /// The next call hears of it: a number above 0 is an XID, one below 0 an error of the library, nothing is a GPU that
    /// is well.
    pub(crate) fn play(&self, number: i32) {
        self.put("play", &number.to_string());
    }

    /// The next call does not return before something else is played.
    pub(crate) fn hang(&self) {
        self.play(HANGS);
    }

    /// All is well, for those who open the library from now on.
    pub(crate) fn restart(&self) {
        let starts = fs::read_to_string(self.path("play.starts")).unwrap_or_default();
        let starts: u32 = starts.trim().parse().unwrap_or(0);
        self.put("play.starts", &(starts + 1).to_string());
        self.play(0);
    }

    fn put(&self, name: &str, text: &str) {
        let (path, new): (PathBuf, PathBuf) = (self.path(name), self.path("next"));
        fs::write(&new, text).unwrap();
        fs::rename(new, path).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        Path::new(self.dir.path()).join(name)
    }
}
