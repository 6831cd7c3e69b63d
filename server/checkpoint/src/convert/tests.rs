use super::*;
use crate::manifest::{MANIFEST, check_manifest};
use crate::tensor::DType;
use crate::{Shape, make_model};
use half::bf16;
use std::collections::BTreeSet;
use tempfile::TempDir;

fn model(shape: Shape) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    make_model(dir.path(), shape, 1).unwrap();
    dir
}

/// The model in files of at most that many bytes.
fn converted(dir: &Path, max_shard: u64) -> TempDir {
    let out = tempfile::tempdir().unwrap();
    let conversion = Conversion {
        checkpoint: &Checkpoint::open(dir).unwrap(),
        max_shard,
    };
    conversion
        .run(&out.path().join("bf16"), &mut |_| {})
        .unwrap();
    out
}

#[test]
fn every_tensor_is_the_nearest_bfloat16_of_what_it_was() {
    for shape in [Shape::Tiny, Shape::Odd, Shape::Omni] {
        let dir = model(shape);
        for max_shard in [MAX_SHARD, 100_000] {
            let out = converted(dir.path(), max_shard);
            let (old, new) = (
                Checkpoint::open(dir.path()).unwrap(),
                Checkpoint::open(&out.path().join("bf16")).unwrap(),
            );
            new.verify().unwrap();
            for &component in old.components() {
                for tensor in old.expected(component) {
                    let old = old.tensor(component, &tensor.name).unwrap();
                    let new = new.tensor(component, &tensor.name).unwrap();
                    assert_eq!(new.dtype, DType::BF16);
                    let rounded = |value| bf16::from_f32(value).to_f32();
                    let expected: Vec<f32> = old.to_f32().into_iter().map(rounded).collect();
                    assert_eq!(new.to_f32(), expected, "{}", tensor.name);
                }
            }
        }
    }
}

#[test]
fn files_beside_the_weights_come_along_and_the_manifest_names_all() {
    let dir = model(Shape::Odd);
    fs::write(dir.path().join("LICENSE"), "free").unwrap();
    fs::write(dir.path().join("transformer/old.bin"), "weights").unwrap();
    let out = converted(dir.path(), MAX_SHARD);
    let out = out.path().join("bf16");
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(&out).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        if entry.path().is_dir() {
            let names = file_names(&entry.path()).unwrap().into_iter();
            found.extend(names.map(|file| format!("{name}/{file}")));
        } else {
            found.insert(name);
        }
    }
    let expected = [
        "LICENSE",
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/merges.txt",
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
        "tokenizer/vocab.json",
        "transformer/config.json",
        "transformer/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
        MANIFEST,
    ];
    assert_eq!(found, expected.map(str::to_owned).into());
    assert_eq!(check_manifest(&out, &mut |_| {}).unwrap(), Some(13));
    let config = fs::read_to_string(out.join("text_encoder/config.json")).unwrap();
    assert!(config.contains("\"torch_dtype\": \"bfloat16\""), "{config}");
}

#[test]
fn progress_ends_at_the_total() {
    let dir = model(Shape::Tiny);
    let out = tempfile::tempdir().unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let mut last = None;
    convert(&checkpoint, &out.path().join("x/y"), &mut |progress| {
        last = Some(progress)
    })
    .unwrap();
    let last = last.unwrap();
    assert!(last.done > 0);
    assert_eq!(last.done, last.total);
}

#[test]
fn a_folder_that_is_not_empty_is_refused_and_stays() {
    let dir = model(Shape::Tiny);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let error = convert(&checkpoint, dir.path(), &mut |_| {}).unwrap_err();
    assert!(
        error.to_string().ends_with("choose a new or an empty one"),
        "{error}"
    );
    checkpoint.verify().unwrap();

    let file = dir.path().join("model_index.json");
    let error = convert(&checkpoint, &file, &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("failed to list"), "{error}");

    let empty = tempfile::tempdir().unwrap();
    convert(&checkpoint, empty.path(), &mut |_| {}).unwrap();
    Checkpoint::open(empty.path()).unwrap();
}

#[test]
fn a_failed_run_leaves_nothing_and_a_stopped_one_is_cleared() {
    let dir = model(Shape::Tiny);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let out = tempfile::tempdir().unwrap();
    let left = out.path().join(".bf16.partial");
    fs::create_dir_all(left.join("vae")).unwrap();
    fs::write(left.join("vae/half"), "x").unwrap();

    fs::rename(dir.path().join("scheduler"), dir.path().join("elsewhere")).unwrap();
    let error = convert(&checkpoint, &out.path().join("bf16"), &mut |_| {}).unwrap_err();
    assert!(
        error.to_string().contains("scheduler: failed to list"),
        "{error}"
    );
    assert_eq!(fs::read_dir(out.path()).unwrap().count(), 0);

    fs::rename(dir.path().join("elsewhere"), dir.path().join("scheduler")).unwrap();
    fs::create_dir_all(left.join("vae")).unwrap();
    fs::write(left.join("vae/half"), "x").unwrap();
    convert(&checkpoint, &out.path().join("bf16"), &mut |_| {}).unwrap();
    assert!(!out.path().join("bf16/vae/half").exists());
    assert!(!left.exists());
}

#[test]
fn two_runs_for_one_folder_do_not_meet() {
    let out = tempfile::tempdir().unwrap();
    let first = PartialFolder::create(&out.path().join("bf16")).unwrap();
    let Err(error) = PartialFolder::create(&out.path().join("bf16")) else {
        panic!("the folder is locked");
    };
    assert!(
        error.to_string().ends_with("another process is writing it"),
        "{error}"
    );
    drop(first);
    PartialFolder::create(&out.path().join("bf16")).unwrap();
}

#[test]
fn an_index_cannot_name_a_folder_elsewhere() {
    let dir = model(Shape::Tiny);
    let index = dir.path().join("model_index.json");
    let text = fs::read_to_string(&index).unwrap();
    fs::write(&index, text.replace("\"scheduler\"", "\"../scheduler\"")).unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let out = tempfile::tempdir().unwrap();
    let error = convert(&checkpoint, &out.path().join("bf16"), &mut |_| {}).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("is not the name of a folder beside it"),
        "{error}"
    );
}
