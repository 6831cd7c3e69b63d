//! What can be wrong with a checkpoint.

use std::fmt;
use std::path::{Path, PathBuf};

/// A file of a checkpoint is missing, damaged or does not fit the others. Displays as one line that names the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointError {
    /// The file at fault.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: String,
}

impl CheckpointError {
    pub(crate) fn new(path: impl Into<PathBuf>, problem: impl fmt::Display) -> Self {
        Self {
            path: path.into(),
            problem: problem.to_string(),
        }
    }

    /// For `map_err`: puts what was being done before the cause.
    pub(crate) fn while_doing<E: fmt::Display>(
        path: &Path,
        action: &str,
    ) -> impl FnOnce(E) -> Self {
        move |cause| Self::new(path, format_args!("failed to {action}: {cause}"))
    }
}

impl fmt::Display for CheckpointError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{}: {}", self.path.display(), self.problem);
        for (i, line) in text
            .split(['\n', '\r'])
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .enumerate()
        {
            if i > 0 {
                f.write_str(" ")?;
            }
            f.write_str(line)?;
        }
        Ok(())
    }
}

impl std::error::Error for CheckpointError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_whatever_its_cause_says() {
        let error = CheckpointError::new("a/b.json", "first\n  second\r\n");
        assert_eq!(error.to_string(), "a/b.json: first second");
    }
}
