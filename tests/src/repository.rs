//! Paths of this checkout.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

// As cargo says it to the running test: checkouts that share a target folder share compiled tests, whose own paths can be
// another checkout's.
static ROOT: LazyLock<PathBuf> = LazyLock::new(|| {
    let tests = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests");
    let parent = PathBuf::from(tests).parent().map(PathBuf::from);
    parent.expect("the crate is a folder of the repository")
});

/// The repository's root folder.
///
/// # Panics
/// When cargo does not run the test.
pub fn root() -> &'static Path {
    &ROOT
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
