use super::*;
use std::fs::OpenOptions;
use tempfile::TempDir;

/// A folder with two files and their manifest.
fn folder() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut manifest = Manifest::default();
    for (name, content) in [("a.json", "alpha"), ("b/c.bin", "gamma")] {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        let mut hash = Hash::default();
        hash.update(content.as_bytes());
        manifest.add(name.to_owned(), hash.finish());
    }
    manifest.write(dir.path()).unwrap();
    dir
}

fn faults(dir: &Path) -> Vec<String> {
    let faults = check_manifest(dir, &mut |_| {}).unwrap_err();
    let text = |fault: CheckpointError| fault.to_string();
    let start = format!("{}/", dir.display());
    faults
        .into_iter()
        .map(text)
        .map(|text| text.replace(&start, ""))
        .collect()
}

#[test]
fn sound_files_pass_and_a_folder_without_manifest_has_nothing_to_compare() {
    let dir = folder();
    let mut last = None;
    let mut progress = |progress| last = Some(progress);
    assert_eq!(check_manifest(dir.path(), &mut progress), Ok(Some(2)));
    assert_eq!(
        last,
        Some(Progress {
            done: 10,
            total: 10
        })
    );
    fs::remove_file(dir.path().join(MANIFEST)).unwrap();
    assert_eq!(check_manifest(dir.path(), &mut |_| {}), Ok(None));
}

#[test]
fn every_damaged_file_is_named_with_what_is_wrong() {
    let dir = folder();
    fs::write(dir.path().join("a.json"), "alphA").unwrap();
    let shorter = OpenOptions::new()
        .write(true)
        .open(dir.path().join("b/c.bin"));
    shorter.unwrap().set_len(4).unwrap();
    let [size, hash] = faults(dir.path()).try_into().unwrap();
    assert_eq!(size, "b/c.bin: the file has 4 bytes; the manifest says 5");
    assert!(hash.starts_with("a.json: the file's SHA-256 is "), "{hash}");

    fs::remove_file(dir.path().join("a.json")).unwrap();
    assert!(faults(dir.path())[0].starts_with("a.json: failed to open"));
}

#[test]
fn a_manifest_that_is_damaged_or_reaches_elsewhere_is_refused() {
    let entry = r#"{"size": 1, "sha256": ""}"#;
    for (text, expected) in [
        ("{".to_owned(), "failed to read the JSON"),
        (
            r#"{"version": 2, "files": {}}"#.to_owned(),
            "its version is 2",
        ),
        (
            format!(r#"{{"version": 1, "files": {{"../x": {entry}}}}}"#),
            "not a path inside",
        ),
        (
            format!(r#"{{"version": 1, "files": {{"/x": {entry}}}}}"#),
            "not a path inside",
        ),
        (
            format!(r#"{{"version": 1, "files": {{"": {entry}}}}}"#),
            "not a path inside",
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(MANIFEST), text).unwrap();
        let faults = faults(dir.path());
        assert!(faults[0].contains(expected), "{faults:?}");
    }
}
