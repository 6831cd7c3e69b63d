//! Rust source files, read line by line as rustfmt leaves them.

use std::fs;
use std::path::{Path, PathBuf};
use zimage_tests::repository;

/// Every `.rs` file of the repository, build outputs left out.
pub(crate) fn rust_files() -> Vec<PathBuf> {
    let mut folders = vec![repository::root().to_owned()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)
            .expect("a folder of the tree can be read")
            .flatten()
        {
            let path = entry.path();
            let hidden = entry.file_name().to_string_lossy().starts_with('.');
            let generated = folder == repository::root()
                && (path.ends_with("target") || path.ends_with("out"))
                || path.ends_with("fuzz/target");
            if path.is_dir() && !hidden && !generated {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files
}

/// Lines before the inline test module.
pub(crate) fn code_lines(text: &str) -> usize {
    text.lines()
        .take_while(|line| *line != "#[cfg(test)]")
        .count()
}

/// Whether a line opens an `unsafe` block, function or implementation.
pub(crate) fn opens_unsafe(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    ["unsafe {", "unsafe fn ", "unsafe impl ", "unsafe extern "]
        .iter()
        .any(|start| code.contains(start))
        && !code.contains('"')
}

/// The file itself and the files of all modules that it declares, directly or not.
pub(crate) fn reachable(root: &Path) -> Vec<PathBuf> {
    let mut found = vec![root.to_owned()];
    // A crate root's modules lie beside it, those of `foo.rs` in `foo/`.
    let beside = root.parent().expect("a file has a folder").to_owned();
    follow(root, &beside, &mut found);
    found
}

fn follow(file: &Path, folder: &Path, found: &mut Vec<PathBuf>) {
    let text =
        fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let mut explicit = None;
    for line in text.lines().map(str::trim) {
        if let Some(path) = line
            .strip_prefix("#[path = \"")
            .and_then(|rest| rest.strip_suffix("\"]"))
        {
            explicit = Some(path);
        } else if let Some(name) = declared_module(line) {
            let child = match explicit.take() {
                Some(path) => file.parent().expect("a file has a folder").join(path),
                None => folder.join(format!("{name}.rs")),
            };
            if child.exists() && !found.contains(&child) {
                found.push(child.clone());
                follow(&child, &child.with_extension(""), found);
            }
        }
    }
}

fn declared_module(line: &str) -> Option<&str> {
    let rest = line.strip_suffix(';')?;
    let (visibility, name) = rest.split_once("mod ")?;
    let visible = visibility.is_empty() || visibility.starts_with("pub");
    visible.then_some(name)
}
