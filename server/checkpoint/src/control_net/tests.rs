use super::*;
use crate::config::Refiner;
use crate::{Shape, make_control_net};
use std::fs;
use tempfile::TempDir;

fn transformer() -> TransformerConfig {
    Shape::Odd.spec().transformer
}

fn folder(form: Refiner) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    make_control_net(dir.path(), Shape::Odd, form, 1).unwrap();
    dir
}

/// Opens and verifies a ControlNet after its configuration was changed, and gives the error's text without the folder.
fn error_after(from: &str, to: &str) -> String {
    let dir = folder(Refiner::Shared);
    let path = dir.path().join("config.json");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(&path, text.replace(from, to)).unwrap();
    let opened = ControlNet::open(dir.path(), &transformer());
    let error = opened
        .and_then(|opened| opened.verify())
        .err()
        .unwrap_or_else(|| panic!("{to} was taken"))
        .to_string();
    error.replace(&format!("{}/", dir.path().display()), "")
}

#[test]
fn control_nets_that_were_made_are_sound_in_every_form() {
    for form in Refiner::ALL {
        let dir = folder(form);
        let opened = ControlNet::open(dir.path(), &transformer()).unwrap();
        opened.verify().unwrap();
        assert_eq!(opened.config().add_control_noise_refiner, form);
        assert_eq!(opened.config().inpaints(16), form != Refiner::Own);
    }
}

#[test]
fn forms_are_told_by_their_names() {
    for form in Refiner::ALL {
        assert_eq!(form.to_string().parse(), Ok(form));
    }
    let error = "canny".parse::<Refiner>().unwrap_err().to_string();
    assert!(error.contains("own, shared and controlled"), "{error}");
}

#[test]
fn unsound_configurations_say_what_is_wrong() {
    for (from, to, expected) in [
        (
            "\"dim\": 280",
            "\"dim\": 560",
            "dim is 560, but the transformer's is 280",
        ),
        (
            "\"n_heads\": 7",
            "\"n_heads\": 14",
            "n_heads is 14, but the transformer's is 7",
        ),
        (
            "\"control_in_dim\": 33",
            "\"control_in_dim\": 8",
            "control_in_dim is 8; 16 to 1024",
        ),
        (
            "\"control_layers\"",
            "\"all\"",
            "add_control_noise_refiner is \"all\"",
        ),
        (
            "\"ZImageControlNetModel\"",
            "\"FluxControlNetModel\"",
            "only \"ZImageControlNetModel\" is implemented",
        ),
        (
            "0,\n    2\n",
            "0,\n    3\n",
            "control_layers_places is [0, 3]; ascending numbers below 3",
        ),
        (
            "0,\n    2\n",
            "1,\n    2\n",
            "control_layers_places is [1, 2]; the first must be 0",
        ),
        ("0,\n    2\n", "\n", "the first must be 0"),
        (
            "[\n    0\n  ]",
            "[0, 1]",
            "control_refiner_layers_places is [0, 1]; ascending numbers below 1",
        ),
        (
            "[\n    0\n  ]",
            "null",
            "control_refiner_layers_places is missing",
        ),
    ] {
        let error = error_after(from, to);
        let named = error.starts_with("config.json: ");
        assert!(named && error.contains(expected), "{error}");
    }
}

#[test]
fn tensor_that_does_not_fit_is_named_with_its_file() {
    let error = error_after("\"control_in_dim\": 33", "\"control_in_dim\": 16");
    let shard = "diffusion_pytorch_model-00001-of-00003.safetensors: ";
    assert!(error.starts_with(shard), "{error}");
    assert!(
        error.contains("\"control_all_x_embedder.2-1.weight\" has shape [280, 132]; [280, 64]"),
        "{error}"
    );
    let error = error_after("\"control_layers\"", "\"control_noise_refiner\"");
    assert!(error.contains("there is no tensor"), "{error}");
}

#[test]
fn omni_model_has_no_control_net() {
    let dir = folder(Refiner::Own);
    let mut omni = transformer();
    omni.siglip_feat_dim = Some(16);
    let error = ControlNet::open(dir.path(), &omni).err().unwrap();
    assert!(error.to_string().contains("for an Omni model"), "{error}");
}

#[test]
fn missing_folder_is_named() {
    let error = ControlNet::open(Path::new("/nowhere"), &transformer());
    let error = error.err().unwrap().to_string();
    assert!(error.starts_with("/nowhere: failed to open"), "{error}");
}

/// A file as the released ones are, with the tensors that `config` implies, all of the same number.
fn single_file(config: &ControlNetConfig, number: f32) -> (TempDir, TransformerConfig) {
    let deep = TransformerConfig {
        n_layers: 30,
        n_refiner_layers: 2,
        ..Shape::Tiny.spec().transformer
    };
    let tensors = layout::control_net(config, &config.blocks(&deep));
    let bytes: Vec<Vec<u8>> = (tensors.iter())
        .map(|tensor| number.to_le_bytes().repeat(tensor.shape.iter().product()))
        .collect();
    let views = tensors.iter().zip(&bytes).map(|(tensor, bytes)| {
        let (dtype, shape) = (safetensors::Dtype::F32, tensor.shape.clone());
        let view = safetensors::tensor::TensorView::new(dtype, shape, bytes);
        (&tensor.name, view.unwrap())
    });
    let dir = tempfile::tempdir().unwrap();
    let content = safetensors::serialize(views, None).unwrap();
    fs::write(dir.path().join("union.safetensors"), content).unwrap();
    (dir, deep)
}

#[test]
fn released_single_files_are_told_apart() {
    for (layers, form, inputs, number, expected) in [
        (6, Refiner::Own, 16, 0.5, Refiner::Own),
        (15, Refiner::Controlled, 33, 0.5, Refiner::Controlled),
        (15, Refiner::Controlled, 33, 0.0, Refiner::Shared),
        (15, Refiner::Shared, 33, 0.5, Refiner::Shared),
    ] {
        let config = ControlNetConfig {
            control_layers_places: (0..layers).collect(),
            control_refiner_layers_places: Some(vec![0, 1]),
            control_in_dim: inputs,
            add_control_noise_refiner: form,
            dim: 96,
            n_refiner_layers: 2,
            n_heads: 3,
            norm_eps: 1e-5,
            qk_norm: true,
        };
        let (dir, deep) = single_file(&config, number);
        let opened = ControlNet::open(&dir.path().join("union.safetensors"), &deep).unwrap();
        opened.verify().unwrap();
        assert_eq!(opened.config().add_control_noise_refiner, expected);
        assert_eq!(opened.config().control_in_dim, inputs);
        let last = if layers == 6 { 25 } else { 28 };
        assert_eq!(opened.config().control_layers_places.last(), Some(&last));
    }
}

#[test]
fn unknown_single_file_says_what_to_do() {
    let dir = folder(Refiner::Own);
    let file = "diffusion_pytorch_model-00001-of-00003.safetensors";
    let error = ControlNet::open(&dir.path().join(file), &transformer());
    let error = error.err().unwrap().to_string();
    assert!(error.contains("name a folder with config.json"), "{error}");
}
