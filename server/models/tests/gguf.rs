//! A GGUF file stands for the folder's transformer.
#![expect(clippy::unwrap_used, reason = "a test fails with the error it unwraps")]

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use zimage_checkpoint::layout::Expected;
use zimage_checkpoint::{BlockFormat, Checkpoint, Component, Shape, make_model};
use zimage_core::executor::Executor;
use zimage_core::pixels::Pixels;
use zimage_core::request::{CfgNormalization, ImageRequest, Noise};
use zimage_models::{CandleExecutor, dequantize};

/// What a file's large tensors are stored as; the others are single precision, as in the files that people share.
const FORMATS: [GgmlDType; 13] = [
    GgmlDType::F32,
    GgmlDType::F16,
    GgmlDType::BF16,
    GgmlDType::Q4_0,
    GgmlDType::Q4_1,
    GgmlDType::Q5_0,
    GgmlDType::Q5_1,
    GgmlDType::Q8_0,
    GgmlDType::Q2K,
    GgmlDType::Q3K,
    GgmlDType::Q4K,
    GgmlDType::Q5K,
    GgmlDType::Q6K,
];

/// The transformer's tensors under ComfyUI's names, q, k and v joined.
fn tensors(checkpoint: &Checkpoint) -> BTreeMap<String, Tensor> {
    let mut tensors: BTreeMap<String, Tensor> = BTreeMap::new();
    for Expected { name, shape } in checkpoint.expected(Component::Transformer) {
        let view = checkpoint.tensor(Component::Transformer, &name).unwrap();
        let tensor = Tensor::from_vec(view.to_f32(), shape, &Device::Cpu).unwrap();
        let joined = ["to_q", "to_k", "to_v"]
            .iter()
            .fold(name, |name, part| name.replace(part, "qkv"));
        let stored = joined
            .replace(".to_out.0.", ".out.")
            .replace("norm_q", "q_norm")
            .replace("norm_k", "k_norm")
            .replace("all_x_embedder.2-1.", "x_embedder.")
            .replace("all_final_layer.2-1.", "final_layer.");
        // As ggml's tools write them, without the outer dimension.
        let tensor = if stored.ends_with("pad_token") {
            tensor.squeeze(0).unwrap()
        } else {
            tensor
        };
        let tensor = match tensors.remove(&stored) {
            Some(before) => Tensor::cat(&[before, tensor], 0).unwrap(),
            None => tensor,
        };
        tensors.insert(stored, tensor);
    }
    tensors
}

/// Writes the file, and gives what candle itself makes of its tensors.
fn write(path: &Path, checkpoint: &Checkpoint, format: GgmlDType) -> BTreeMap<String, Tensor> {
    let quantized: Vec<(String, QTensor)> = tensors(checkpoint)
        .into_iter()
        .map(|(name, tensor)| {
            let fits =
                tensor.rank() == 2 && tensor.dim(1).unwrap().is_multiple_of(format.block_size());
            let format = if fits { format } else { GgmlDType::F32 };
            (name, QTensor::quantize(&tensor, format).unwrap())
        })
        .collect();
    assert!(quantized.iter().any(|(_, tensor)| tensor.dtype() == format));
    let architecture = Value::String("lumina2".to_owned());
    let views: Vec<(&str, &QTensor)> = quantized
        .iter()
        .map(|(name, tensor)| (name.as_str(), tensor))
        .collect();
    let mut file = File::create(path).unwrap();
    gguf_file::write(
        &mut file,
        &[("general.architecture", &architecture)],
        &views,
    )
    .unwrap();
    let back = |(name, tensor): (String, QTensor)| (name, tensor.dequantize(&Device::Cpu).unwrap());
    quantized.into_iter().map(back).collect()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn image(checkpoint: &Checkpoint) -> Pixels {
    let mut executor = CandleExecutor::load(checkpoint).unwrap();
    let request = ImageRequest {
        prompt: "a cat".to_owned(),
        negative_prompt: String::new(),
        width: 64,
        height: 64,
        num_inference_steps: 2,
        guidance_scale: 0.0,
        cfg_normalization: CfgNormalization::Off,
        cfg_truncation: 1.0,
        noise: Noise {
            seed: 1,
            index: 0,
            count: 1,
        },
        references: Vec::new(),
        control: None,
        init: None,
    };
    executor.generate(&request, &mut |_, _| ()).unwrap()
}

#[test]
fn every_format_gives_the_values_that_candle_gives() {
    let dir = tempfile::tempdir().unwrap();
    make_model(dir.path(), Shape::Tiny, 1).unwrap();
    let whole = Checkpoint::open(dir.path()).unwrap();
    for format in FORMATS {
        let path = dir.path().join("model.gguf");
        let expected = write(&path, &whole, format);
        let checkpoint = Checkpoint::open_with_transformer(dir.path(), &path, dequantize).unwrap();
        checkpoint.verify().unwrap();
        let tensor = |name: &str, shape: &[usize]| {
            let tensor = checkpoint.tensor_of_shape(Component::Transformer, name, shape);
            tensor.unwrap().to_f32()
        };
        let config = whole.transformer();
        let dim = config.dim;
        let joined: Vec<f32> = ["to_q", "to_k", "to_v"]
            .iter()
            .flat_map(|part| tensor(&format!("layers.0.attention.{part}.weight"), &[dim, dim]))
            .collect();
        assert_eq!(
            joined,
            values(&expected["layers.0.attention.qkv.weight"]),
            "{format:?}"
        );
        for (name, stored, shape) in [
            (
                "t_embedder.mlp.0.weight",
                "t_embedder.mlp.0.weight",
                [1024, 256],
            ),
            (
                "layers.1.feed_forward.w1.weight",
                "layers.1.feed_forward.w1.weight",
                [config.ffn_dim(), dim],
            ),
            (
                "all_x_embedder.2-1.weight",
                "x_embedder.weight",
                [dim, config.patch_dim()],
            ),
            ("x_pad_token", "x_pad_token", [1, dim]),
        ] {
            assert_eq!(
                tensor(name, &shape),
                values(&expected[stored]),
                "{format:?} {name}"
            );
        }
    }
}

#[test]
fn the_image_is_that_of_the_dequantised_tensors() {
    let (dir, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    make_model(dir.path(), Shape::Tiny, 1).unwrap();
    let whole = Checkpoint::open(dir.path()).unwrap();
    let gguf = dir.path().join("model.gguf");
    let tensors = write(&gguf, &whole, GgmlDType::Q8_0);
    let single = out.path().join("model.safetensors");
    candle_core::safetensors::save(&tensors.into_iter().collect(), &single).unwrap();
    let open = |file| Checkpoint::open_with_transformer(dir.path(), file, dequantize).unwrap();
    let quantised = image(&open(&gguf));
    assert_eq!(quantised, image(&open(&single)));
    assert_ne!(quantised, image(&whole));
}

#[test]
fn a_format_that_is_not_read_is_named_with_its_tensor() {
    let dir = tempfile::tempdir().unwrap();
    make_model(dir.path(), Shape::Tiny, 1).unwrap();
    let path = dir.path().join("model.gguf");
    write(
        &path,
        &Checkpoint::open(dir.path()).unwrap(),
        GgmlDType::Q8_0,
    );
    let mut file = std::fs::read(&path).unwrap();
    let name = b"cap_embedder.1.weight";
    let at = file
        .windows(name.len())
        .position(|window| window == name)
        .unwrap();
    // Behind the name are the number of dimensions and two of them.
    let kind = at + name.len() + 4 + 16;
    file[kind..kind + 4].copy_from_slice(&23_u32.to_le_bytes());
    std::fs::write(&path, file).unwrap();
    let error = Checkpoint::open_with_transformer(dir.path(), &path, dequantize)
        .unwrap()
        .verify()
        .unwrap_err();
    assert!(
        error
            .problem
            .starts_with("tensor \"cap_embedder.1.weight\" is stored as IQ4_XS"),
        "{error}"
    );
    assert_eq!(error.path, path);
}

#[test]
fn without_a_function_blocks_are_refused() {
    fn refuse(format: BlockFormat, _: &[u8]) -> Result<Vec<f32>, String> {
        Err(format!("no {format:?} here"))
    }
    let dir = tempfile::tempdir().unwrap();
    make_model(dir.path(), Shape::Tiny, 1).unwrap();
    let path = dir.path().join("model.gguf");
    write(
        &path,
        &Checkpoint::open(dir.path()).unwrap(),
        GgmlDType::Q4_0,
    );
    let checkpoint = Checkpoint::open_with_transformer(dir.path(), &path, refuse).unwrap();
    let error = checkpoint
        .tensor(Component::Transformer, "t_embedder.mlp.0.weight")
        .unwrap_err();
    assert!(error.problem.ends_with("no Q4_0 here"), "{error}");
}
