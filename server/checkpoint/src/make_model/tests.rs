use super::*;
use crate::config::Refiner;
use sha2::{Digest as _, Sha256};
use std::fs;

/// SHA-256 over each file's name and content, in the order of the names.
fn hash(dir: &Path) -> String {
    let mut files = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path)
            } else {
                files.push(path)
            }
        }
    }
    files.sort();
    let mut hash = Sha256::new();
    for file in files {
        hash.update(file.strip_prefix(dir).unwrap().to_str().unwrap());
        hash.update(fs::read(file).unwrap());
    }
    hash.finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[test]
fn models_are_the_same_bit_for_bit_on_every_machine() {
    for (shape, expected) in [
        (
            Shape::Tiny,
            "ed10e139192eac1796c8bfe81d51c5fb97be2b3d914a04df0610f74e5903c650",
        ),
        (
            Shape::Odd,
            "5cf020321cdb48e271234bd1b1a8e5d964913bc12ed700307f659dba1c9b282f",
        ),
        (
            Shape::Omni,
            "1a761705db8413988835bc7444ffff4136eb0176f76ef0685ebea3efbd367db1",
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        make_model(dir.path(), shape, 7).unwrap();
        assert_eq!(hash(dir.path()), expected, "{shape}");
    }
}

#[test]
fn control_nets_are_the_same_bit_for_bit_on_every_machine() {
    for (shape, form, expected) in [
        (
            Shape::Tiny,
            Refiner::Own,
            "669c2455a952c5e4ef9827e9dc28fd7556e304c8718a67c292e887531b1dacce",
        ),
        (
            Shape::Tiny,
            Refiner::Shared,
            "22065d5465788512ff29bbfdd43e0300661dc3ce943613575819585f559ca5bc",
        ),
        (
            Shape::Odd,
            Refiner::Controlled,
            "1f979ba0579cebdfe74966f0503a3886a6709f0b6309dfea9727580461977d4a",
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        make_control_net(dir.path(), shape, form, 7).unwrap();
        assert_eq!(hash(dir.path()), expected, "{shape} {form}");
    }
}

#[test]
fn another_seed_makes_another_model() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    make_model(one.path(), Shape::Tiny, 1).unwrap();
    make_model(two.path(), Shape::Tiny, 2).unwrap();
    assert_ne!(hash(one.path()), hash(two.path()));
}

#[test]
fn writing_the_same_model_again_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    make_model(dir.path(), Shape::Tiny, 1).unwrap();
    let before = hash(dir.path());
    make_model(dir.path(), Shape::Tiny, 1).unwrap();
    assert_eq!(hash(dir.path()), before);
}

#[test]
fn another_model_is_never_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    make_model(dir.path(), Shape::Tiny, 1).unwrap();
    let before = hash(dir.path());
    let error = make_model(dir.path(), Shape::Tiny, 2).unwrap_err();
    assert!(
        error.to_string().contains("choose an empty folder"),
        "{error}"
    );
    assert_eq!(hash(dir.path()), before);
}
