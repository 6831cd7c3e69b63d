//! Why the process ends, with the exit code that says so.

use std::fmt::Display;
use std::fs::OpenOptions;
use std::io::Write;
use std::process::ExitCode;

/// Where the kubelet reads a container's last words.
const TERMINATION_LOG: &str = "/dev/termination-log";

/// Why the process ends.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    /// Something else.
    #[error("{0}")]
    Other(String),
    /// The flags ask for what this machine or this build does not have.
    #[error("{0}")]
    Unsupported(String),
    /// The checkpoint is missing or broken.
    #[error("model invalid: {0}")]
    Model(String),
    /// The device failed while serving; a new process starts afresh.
    #[error("device failed: {0}")]
    Device(String),
}

impl Failure {
    pub(crate) fn other(error: impl Display) -> Self {
        Self::Other(error.to_string())
    }

    const fn code(&self) -> u8 {
        match self {
            Self::Other(_) => 1,
            Self::Unsupported(_) => 2,
            Self::Model(_) => 3,
            Self::Device(_) => 4,
        }
    }

    /// Tells the log, and the kubelet when there is one.
    pub(crate) fn report(&self) -> ExitCode {
        tracing::error!("{self}");
        if let Ok(mut file) = OpenOptions::new().write(true).open(TERMINATION_LOG)
            && let Err(error) = writeln!(file, "{self}")
        {
            tracing::warn!(%error, "failed to write {TERMINATION_LOG}");
        }
        ExitCode::from(self.code())
    }
}
