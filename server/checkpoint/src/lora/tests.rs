use super::*;
use crate::{Checkpoint, Component, DType, Shape, make_model};
use safetensors::tensor::TensorView as Stored;
use std::fs;
use std::path::PathBuf;
use tempfile::TempDir;

const TO_Q: &str = "layers.0.attention.to_q.weight";

/// The tiny model, whose layers.0.attention.to_q has 96 x 96 weights.
fn model(shape: Shape) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    make_model(dir.path(), shape, 1).unwrap();
    dir
}

/// A tensor of a LoRA file: key, shape, and its values, which are counted up from the number.
type Tensor<'a> = (&'a str, &'a [usize], f32);

fn values(shape: &[usize], first: f32) -> Vec<f32> {
    let count: usize = shape.iter().product();
    (0..count).map(|i| first + (i % 7) as f32 * 0.25).collect()
}

fn write(dir: &TempDir, tensors: &[Tensor<'_>], note: Option<&str>) -> PathBuf {
    let path = dir.path().join("lora.safetensors");
    let bytes: Vec<Vec<u8>> = tensors
        .iter()
        .map(|(_, shape, first)| values(shape, *first))
        .map(|values| {
            values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect()
        })
        .collect();
    let views = tensors.iter().zip(&bytes).map(|((key, shape, _), bytes)| {
        let view = Stored::new(safetensors::Dtype::F32, shape.to_vec(), bytes);
        (*key, view.unwrap())
    });
    let notes = note.map(|note| HashMap::from([(metadata::NAME.to_owned(), note.to_owned())]));
    fs::write(&path, safetensors::serialize(views, notes).unwrap()).unwrap();
    path
}

fn weight(checkpoint: &Checkpoint, name: &str) -> Vec<f32> {
    let tensor = checkpoint.tensor(Component::Transformer, name).unwrap();
    tensor.to_f32()
}

fn with_lora(dir: &TempDir, scale: f32) -> Result<Checkpoint, CheckpointError> {
    let lora = Lora::open(&dir.path().join("lora.safetensors"), scale)?;
    Checkpoint::open(dir.path())?.with_loras(vec![lora])
}

/// What the file changes in the tensor.
fn change(dir: &TempDir, name: &str, scale: f32) -> Vec<f32> {
    let merged = weight(&with_lora(dir, scale).unwrap(), name);
    let base = weight(&Checkpoint::open(dir.path()).unwrap(), name);
    merged
        .iter()
        .zip(&base)
        .map(|(new, old)| new - old)
        .collect()
}

fn product(left: &[f32], right: &[f32], inner: usize) -> Vec<f32> {
    let columns = right.len() / inner;
    let element = |row: usize, column: usize| -> f32 {
        (0..inner)
            .map(|k| left[row * inner + k] * right[k * columns + column])
            .sum()
    };
    (0..left.len() / inner)
        .flat_map(|row| (0..columns).map(move |column| (row, column)))
        .map(|(row, column)| element(row, column))
        .collect()
}

fn assert_close(actual: &[f32], expected: &[f32], what: &str) {
    assert_eq!(actual.len(), expected.len(), "{what}");
    let largest = expected
        .iter()
        .fold(0f32, |most, value| most.max(value.abs()));
    for (actual, expected) in actual.iter().zip(expected) {
        let difference = (actual - expected).abs();
        assert!(
            difference <= 1e-5 * largest,
            "{what}: {actual}, not {expected}"
        );
    }
}

/// The error without the folder.
fn refusal(tensors: &[Tensor<'_>]) -> String {
    let dir = model(Shape::Tiny);
    write(&dir, tensors, None);
    let text = with_lora(&dir, 1.0).err().unwrap().to_string();
    assert!(!text.contains('\n'), "{text}");
    text.replace(&format!("{}/", dir.path().display()), "")
}

#[test]
fn every_layout_gives_one_change() {
    let dir = model(Shape::Tiny);
    let expected = product(&values(&[96, 2], 1.0), &values(&[2, 96], -1.0), 2);
    for (prefix, down, up) in [
        ("transformer.layers.0.attention.to_q", "lora_A", "lora_B"),
        (
            "diffusion_model.layers.0.attention.to_q",
            "lora_A",
            "lora_B",
        ),
        ("layers.0.attention.to_q", "lora_down", "lora_up"),
        ("lora_unet_layers_0_attention_to_q", "lora_down", "lora_up"),
        ("layers.0.attention.to.q", "lora.down", "lora.up"),
        (
            "layers.0.attention.to_q",
            "lora_A.default",
            "lora_B.default",
        ),
    ] {
        let (down, up) = (
            format!("{prefix}.{down}.weight"),
            format!("{prefix}.{up}.weight"),
        );
        let tensors: [Tensor<'_>; 2] = [(&down, &[2, 96], -1.0), (&up, &[96, 2], 1.0)];
        write(&dir, &tensors, None);
        assert_close(&change(&dir, TO_Q, 1.0), &expected, prefix);
        let checkpoint = with_lora(&dir, 1.0).unwrap();
        let lora = &checkpoint.loras()[0];
        assert_eq!((lora.matched_keys(), lora.changed_tensors()), (2, 1));
    }
}

#[test]
fn change_is_scaled_by_alpha_over_rank_and_the_scale_asked_for() {
    let dir = model(Shape::Tiny);
    let tensors: [Tensor<'_>; 3] = [
        ("layers.0.attention.to_q.lora_A.weight", &[2, 96], -1.0),
        ("layers.0.attention.to_q.lora_B.weight", &[96, 2], 1.0),
        ("layers.0.attention.to_q.alpha", &[], 6.0),
    ];
    write(&dir, &tensors, None);
    let mut expected = product(&values(&[96, 2], 1.0), &values(&[2, 96], -1.0), 2);
    expected.iter_mut().for_each(|value| *value *= -0.5 * 3.0);
    assert_close(&change(&dir, TO_Q, -0.5), &expected, "alpha");
    let note = r#"{"transformer.r": 2, "transformer.lora_alpha": 6}"#;
    write(&dir, &tensors[..2], Some(note));
    assert_close(&change(&dir, TO_Q, -0.5), &expected, "metadata");
}

#[test]
fn joined_projection_changes_q_k_and_v() {
    let dir = model(Shape::Tiny);
    let tensors: [Tensor<'_>; 2] = [
        (
            "lora_unet_layers_0_attention_qkv.lora_down.weight",
            &[3, 96],
            0.0,
        ),
        (
            "lora_unet_layers_0_attention_qkv.lora_up.weight",
            &[288, 3],
            1.0,
        ),
    ];
    write(&dir, &tensors, None);
    let expected = product(&values(&[288, 3], 1.0), &values(&[3, 96], 0.0), 3);
    for (third, part) in ["to_q", "to_k", "to_v"].iter().enumerate() {
        let name = format!("layers.0.attention.{part}.weight");
        let rows = &expected[third * 96 * 96..(third + 1) * 96 * 96];
        assert_close(&change(&dir, &name, 1.0), rows, part);
    }
}

#[test]
fn second_name_of_a_module_is_redundant_beside_the_first() {
    let dir = model(Shape::Tiny);
    let tensors: [Tensor<'_>; 6] = [
        (
            "lora_unet_layers_0_attention_qkv.lora_down.weight",
            &[2, 96],
            5.0,
        ),
        (
            "lora_unet_layers_0_attention_qkv.lora_up.weight",
            &[288, 2],
            5.0,
        ),
        (
            "lora_unet_layers_0_attention_out.lora_down.weight",
            &[2, 96],
            5.0,
        ),
        (
            "lora_unet_layers_0_attention_out.lora_up.weight",
            &[96, 2],
            5.0,
        ),
        (
            "lora_unet_layers_0_attention_to_out_0.lora_down.weight",
            &[2, 96],
            0.0,
        ),
        (
            "lora_unet_layers_0_attention_to_out_0.lora_up.weight",
            &[96, 2],
            1.0,
        ),
    ];
    write(&dir, &tensors, None);
    let checkpoint = with_lora(&dir, 1.0).unwrap();
    let loras = checkpoint.loras();
    assert_eq!((loras[0].matched_keys(), loras[0].redundant_keys()), (4, 2));
    let expected = product(&values(&[96, 2], 1.0), &values(&[2, 96], 0.0), 2);
    let name = "layers.0.attention.to_out.0.weight";
    assert_close(&change(&dir, name, 1.0), &expected, name);
}

#[test]
fn lokr_is_a_kronecker_product_of_whole_or_divided_factors() {
    let dir = model(Shape::Tiny);
    let (left, right) = (values(&[4, 8], 1.0), values(&[24, 12], -1.0));
    let kronecker = |left: &[f32], right: &[f32]| -> Vec<f32> {
        (0..96 * 96)
            .map(|i| (i / 96, i % 96))
            .map(|(row, column)| {
                left[row / 24 * 8 + column / 12] * right[row % 24 * 12 + column % 12]
            })
            .collect()
    };
    let name = |part: &str| format!("lycoris_layers_0_attention_to_q.{part}");
    let [w1, w1_a, w1_b] = ["lokr_w1", "lokr_w1_a", "lokr_w1_b"].map(name);
    let [w2, w2_a, w2_b] = ["lokr_w2", "lokr_w2_a", "lokr_w2_b"].map(name);
    let alpha = name("alpha");

    // LyCORIS writes an alpha that means nothing here.
    let whole: [Tensor<'_>; 3] = [
        (&w1, &[4, 8], 1.0),
        (&w2, &[24, 12], -1.0),
        (&alpha, &[1], 9.0),
    ];
    write(&dir, &whole, None);
    let expected = kronecker(&left, &right);
    assert_close(&change(&dir, TO_Q, 1.0), &expected, "whole");

    let divided: [Tensor<'_>; 4] = [
        (&w1, &[4, 8], 1.0),
        (&w2_a, &[24, 2], 0.5),
        (&w2_b, &[2, 12], 0.0),
        (&alpha, &[], 6.0),
    ];
    write(&dir, &divided, None);
    let right = product(&values(&[24, 2], 0.5), &values(&[2, 12], 0.0), 2);
    let mut expected = kronecker(&left, &right);
    expected.iter_mut().for_each(|value| *value *= 3.0);
    assert_close(&change(&dir, TO_Q, 1.0), &expected, "right side divided");

    let both: [Tensor<'_>; 4] = [
        (&w1_a, &[4, 3], 1.0),
        (&w1_b, &[3, 8], 0.0),
        (&w2_a, &[24, 2], 0.5),
        (&w2_b, &[2, 12], 0.0),
    ];
    write(&dir, &both, None);
    let left = product(&values(&[4, 3], 1.0), &values(&[3, 8], 0.0), 3);
    let expected = kronecker(&left, &right);
    assert_close(&change(&dir, TO_Q, 1.0), &expected, "both divided");
}

#[test]
fn several_files_add_up_and_other_tensors_stay() {
    let dir = model(Shape::Odd);
    let tensors: [Tensor<'_>; 2] = [
        (
            "diffusion_model.layers.0.attention.to_q.lora_A.weight",
            &[2, 280],
            -1.0,
        ),
        (
            "diffusion_model.layers.0.attention.to_q.lora_B.weight",
            &[280, 2],
            1.0,
        ),
    ];
    let path = write(&dir, &tensors, None);
    let base = Checkpoint::open(dir.path()).unwrap();
    let loras = [0.5, -0.25].map(|scale| Lora::open(&path, scale).unwrap());
    let merged = Checkpoint::open(dir.path())
        .unwrap()
        .with_loras(loras.into())
        .unwrap();
    merged.verify().unwrap();
    let delta = product(&values(&[280, 2], 1.0), &values(&[2, 280], -1.0), 2);
    let expected: Vec<f32> = weight(&base, TO_Q)
        .iter()
        .zip(delta)
        .map(|(weight, delta)| weight + 0.25 * delta)
        .collect();
    assert_close(&weight(&merged, TO_Q), &expected, "0.5 - 0.25");
    for (name, dtype) in [
        (TO_Q, DType::F32),
        ("layers.1.attention.to_q.weight", DType::BF16),
    ] {
        let tensor = merged.tensor(Component::Transformer, name).unwrap();
        assert_eq!(tensor.dtype, dtype, "{name}");
    }
    let name = "layers.1.attention.to_q.weight";
    assert_eq!(weight(&merged, name), weight(&base, name));
}

#[test]
fn keys_that_do_not_fit_are_named_and_counted() {
    let (down, up) = (
        "layers.0.attention.to_q.lora_A.weight",
        "layers.0.attention.to_q.lora_B.weight",
    );
    let sound: [Tensor<'_>; 2] = [(down, &[2, 96], 0.0), (up, &[96, 2], 0.0)];
    for (others, reason) in [
        (
            &[
                ("layers.2.attention.to_q.lora_A.weight", &[2, 96][..], 0.0),
                ("layers.2.attention.to_q.lora_B.weight", &[96, 2], 0.0),
            ][..],
            "2 of its 4 keys do not fit the transformer: \"layers.2.attention.to_q\" (there is no such module)",
        ),
        (
            &[(
                "text_encoder.layers.0.self_attn.q_proj.lora_A.weight",
                &[2, 64],
                0.0,
            )],
            "1 of its 3 keys do not fit the transformer: \"text_encoder.layers.0.self_attn.q_proj\" (there is no such module)",
        ),
        (
            &[("layers.0.attention.to_q.dora_scale", &[96], 0.0)],
            "\"layers.0.attention.to_q.dora_scale\" (DoRA is not read)",
        ),
        (
            &[("layers.0.attention.to_k.lora_A.weight", &[2, 96], 0.0)],
            "\"layers.0.attention.to_k\" (it has no Up)",
        ),
        (
            &[("layers.0.attention.to_q.lokr_w1", &[2, 96], 0.0)],
            "\"layers.0.attention.to_q\" (it has parts of a LoRA and of a LoKR, or a part too many)",
        ),
        (
            &[("layers.0.attention.to_q.alpha", &[2], 0.0)],
            "\"layers.0.attention.to_q.alpha\" has 2 values; alpha is one",
        ),
        (
            &[
                ("layers.0.attention.to_k.lora_A.weight", &[0, 96], 0.0),
                ("layers.0.attention.to_k.lora_B.weight", &[96, 0], 0.0),
            ],
            "has shape [96, 0], which is no matrix",
        ),
        (
            &[
                ("layers.0.attention.to_k.lora_A.weight", &[4, 96], 0.0),
                ("layers.0.attention.to_k.lora_B.weight", &[96, 2], 0.0),
            ],
            "its factors have shapes [96, 2] and [4, 96], the weight has [96, 96]",
        ),
        (
            &[
                ("layers.0.attention.to_k.lokr_w1", &[4, 4], 0.0),
                ("layers.0.attention.to_k.lokr_w2", &[24, 23], 0.0),
            ],
            "its factors have shapes [4, 4] and [24, 23], the weight has [96, 96]",
        ),
    ] {
        let error = refusal(&[&sound, others].concat());
        assert!(error.starts_with("lora.safetensors: "), "{error}");
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn file_of_another_model_is_refused() {
    assert_eq!(refusal(&[]), "lora.safetensors: the file has no keys");
    let key = "transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight";
    let error = refusal(&[(key, &[2, 96], 0.0)]);
    assert!(
        error.contains("none of its 1 keys fits the transformer"),
        "{error}"
    );
    let dir = model(Shape::Tiny);
    let path = dir.path().join("vae/diffusion_pytorch_model.safetensors");
    let lora = Lora::open(&path, 1.0).unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let error = checkpoint.with_loras(vec![lora]).err().unwrap().to_string();
    assert!(error.contains("(not a part of a LoRA or LoKR)"), "{error}");
    assert!(error.ends_with(" more"), "{error}");
}

#[test]
fn two_keys_for_one_weight_are_refused() {
    let error = refusal(&[
        ("layers.0.attention.to_q.lora_A.weight", &[2, 96], 0.0),
        (
            "lora_unet_layers_0_attention_to_q.lora_down.weight",
            &[2, 96],
            0.0,
        ),
    ]);
    assert!(error.ends_with("are for the same weight"), "{error}");
}

#[test]
fn scale_is_a_finite_number() {
    let error = Lora::open(Path::new("x.safetensors"), f32::NAN)
        .err()
        .unwrap();
    assert_eq!(
        error.to_string(),
        "x.safetensors: the scale NaN is not a finite number"
    );
}

#[test]
fn damaged_files_give_one_line_that_names_the_file_and_never_a_panic() {
    let dir = model(Shape::Tiny);
    let tensors: [Tensor<'_>; 7] = [
        ("layers.0.attention.qkv.lora_A.weight", &[2, 96], 0.0),
        ("layers.0.attention.qkv.lora_B.weight", &[288, 2], 0.0),
        ("layers.0.attention.qkv.alpha", &[], 1.0),
        ("layers.1.attention.to_q.lokr_w1_a", &[4, 1], 1.0),
        ("layers.1.attention.to_q.lokr_w1_b", &[1, 8], 1.0),
        ("layers.1.attention.to_q.lokr_w2", &[24, 12], 1.0),
        ("layers.1.attention.to_q.alpha", &[], 1.0),
    ];
    let note = r#"{"transformer.r": 2, "transformer.lora_alpha": 6}"#;
    let path = write(&dir, &tensors, Some(note));
    let sound = fs::read(&path).unwrap();
    let header = 8 + u64::from_le_bytes(sound[..8].try_into().unwrap()) as usize;
    let mut numbers = rand_mt::Mt::new(1);
    let mut below = |limit: usize| numbers.next_u32() as usize % limit;
    let (mut refused, mut read) = (0, 0);
    for _ in 0..2000 {
        let mut damaged = sound.clone();
        for _ in 0..=below(3) {
            // Letters, digits and signs of JSON: most other bytes end in the JSON's parser.
            let byte = b"019,:[]{}\"_.abwkrq"[below(18)];
            let position = below(header);
            damaged[position] = if below(9) == 0 {
                below(256) as u8
            } else {
                byte
            };
        }
        if below(10) == 0 {
            damaged.truncate(below(sound.len()));
        }
        fs::write(&path, damaged).unwrap();
        match with_lora(&dir, 1.0) {
            Ok(checkpoint) => {
                for tensor in checkpoint.expected(Component::Transformer) {
                    weight(&checkpoint, &tensor.name);
                }
                read += 1;
            }
            Err(error) => {
                let text = error.to_string();
                let named = text.starts_with(&path.display().to_string());
                assert!(named && !text.contains('\n'), "{text}");
                refused += 1;
            }
        }
    }
    assert!(refused > 1000 && read > 5, "{refused} refused, {read} read");
}
