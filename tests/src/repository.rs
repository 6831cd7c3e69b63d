//! Paths of this checkout.

use std::path::{Path, PathBuf};

/// The repository's root folder.
///
/// # Panics
/// When the crate lies at the root of the file system.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the crate is a folder of the repository")
}

/// A path below the root, such as `charts/zimage-operator`.
pub fn path(relative: &str) -> PathBuf {
    root().join(relative)
}

/// The text of a file of the repository.
///
/// # Panics
/// When the file cannot be read.
pub fn read(relative: &str) -> String {
    let path = path(relative);
    std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
}
