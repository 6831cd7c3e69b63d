use super::*;
use crate::{DType, Shape, make_model};
use std::collections::BTreeMap;
use std::fs;
use tempfile::TempDir;

fn model(shape: Shape) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    make_model(dir.path(), shape, 1).unwrap();
    dir
}

/// Opens and verifies a model after one of its files was changed, and gives the error's text without the folder.
fn error_after(change: impl FnOnce(&Path)) -> String {
    error_of(Shape::Odd, change)
}

fn error_of(shape: Shape, change: impl FnOnce(&Path)) -> String {
    let dir = model(shape);
    change(dir.path());
    let result = Checkpoint::open(dir.path()).and_then(|checkpoint| checkpoint.verify());
    let text = result.unwrap_err().to_string();
    assert!(!text.contains('\n'), "{text}");
    text.replace(&format!("{}/", dir.path().display()), "")
}

fn edit(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{from} is not in {}", path.display());
    fs::write(path, text.replace(from, to)).unwrap();
}

#[test]
fn models_that_make_model_wrote_are_sound() {
    for shape in [Shape::Tiny, Shape::Odd, Shape::Omni] {
        let dir = model(shape);
        Checkpoint::open(dir.path()).unwrap().verify().unwrap();
    }
}

#[test]
fn tensors_are_found_in_any_shard_with_or_without_prefix() {
    for (shape, dtype) in [(Shape::Tiny, DType::F32), (Shape::Odd, DType::BF16)] {
        let dir = model(shape);
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        let norm = checkpoint
            .tensor(Component::TextEncoder, "norm.weight")
            .unwrap();
        assert_eq!(norm.dtype, dtype);
        assert_eq!(norm.to_f32().len(), checkpoint.text_encoder().hidden_size);
        assert!(
            norm.to_f32()
                .iter()
                .all(|weight| (0.79..=1.21).contains(weight))
        );
    }
}

#[test]
fn prompt_is_encoded_inside_the_chat_template() {
    let dir = model(Shape::Tiny);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let text = checkpoint.prompt_encoder().render("a cat").unwrap();
    assert_eq!(
        text,
        "<|im_start|>user\na cat<|im_end|>\n<|im_start|>assistant\n"
    );
    // The ids that transformers gives.
    let encoded = checkpoint.encode("a cat xxxxx").unwrap();
    assert_eq!(
        encoded.ids,
        [
            308, 258, 198, 64, 279, 220, 87, 87, 87, 87, 87, 309, 198, 308, 266, 198
        ]
    );
    assert!(!encoded.truncated);
}

#[test]
fn a_template_has_the_functions_that_transformers_gives_it() {
    let dir = model(Shape::Tiny);
    let template = dir.path().join("tokenizer/chat_template.jinja");
    let ask = "{% if messages[0].content == 'no' %}{{ raise_exception('not that') }}{% endif %}";
    fs::write(&template, format!("{ask}{{{{ strftime_now('%Y-%m') }}}}")).unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let text = checkpoint.prompt_encoder().render("a cat").unwrap();
    let (year, month) = text.split_once('-').unwrap();
    assert!(year.parse::<u32>().unwrap() >= 2025, "{text}");
    assert!((1..=12).contains(&month.parse::<u32>().unwrap()), "{text}");
    let refused = checkpoint.encode("no").unwrap_err().to_string();
    assert!(refused.contains("not that"), "{refused}");
}

#[test]
fn a_template_that_fails_or_says_nothing_is_found_before_the_model_is_loaded() {
    for (template, expected) in [
        ("{{ no_such_function() }}", "no_such_function"),
        (
            "{{ strftime_now('%!') }}",
            "failed to render the chat template",
        ),
        ("{{ raise_exception('never') }}", "never"),
        ("", "made no text"),
        // Guidance leads away from the empty prompt.
        (
            "{% if not messages[0].content %}{{ raise_exception('empty') }}{% endif %}a cat",
            "empty",
        ),
        (
            "{% if messages[0].content %}a cat{% endif %}",
            "made no text of the prompt \"\"",
        ),
    ] {
        let error = error_after(|dir| {
            fs::write(dir.join("tokenizer/chat_template.jinja"), template).unwrap();
        });
        assert!(
            error.starts_with("tokenizer/chat_template.jinja: "),
            "{error}"
        );
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn what_is_no_weight_file_is_told_by_what_it_is() {
    for (content, expected) in [
        ("", "the file is empty"),
        (
            "version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "a pointer of Git LFS",
        ),
        ("<!DOCTYPE html><html></html>", "a web page"),
        ("PK\u{3}\u{4}abcdefghij", "no safetensors file"),
    ] {
        let file = "vae/diffusion_pytorch_model.safetensors";
        let error = error_after(|dir| fs::write(dir.join(file), content).unwrap());
        let start = format!("{file}: failed to read the header: ");
        assert!(
            error.starts_with(&start) && error.contains(expected),
            "{error}"
        );
    }
}

#[test]
fn a_file_that_changes_between_opening_and_reading_is_named() {
    let dir = model(Shape::Tiny);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let path = dir.path().join("vae/diffusion_pytorch_model.safetensors");
    let length = fs::metadata(&path).unwrap().len();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(length / 2).unwrap();
    let error = checkpoint.check_values().unwrap_err();
    assert_eq!(error.path, path);
    assert!(
        error.problem.contains("was changed while it was read"),
        "{error}"
    );
}

#[test]
fn long_prompts_are_cut_to_512_tokens() {
    let dir = model(Shape::Tiny);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let template = checkpoint.encode("").unwrap().ids.len();
    for (letters, truncated) in [(512 - template, false), (513 - template, true)] {
        let encoded = checkpoint.encode(&"x".repeat(letters)).unwrap();
        assert_eq!((encoded.ids.len(), encoded.truncated), (512, truncated));
    }
}

#[test]
fn missing_shard_is_named() {
    let shard = "transformer/diffusion_pytorch_model-00002-of-00003.safetensors";
    let error = error_after(|dir| fs::remove_file(dir.join(shard)).unwrap());
    assert!(
        error.starts_with(&format!("{shard}: failed to open")),
        "{error}"
    );
}

#[test]
fn shortened_file_is_named() {
    let file = "vae/diffusion_pytorch_model.safetensors";
    let error = error_after(|dir| {
        let content = fs::read(dir.join(file)).unwrap();
        fs::write(dir.join(file), &content[..content.len() - 1]).unwrap();
    });
    assert!(
        error.starts_with(&format!("{file}: failed to read the header")),
        "{error}"
    );
}

#[test]
fn tensor_that_the_index_puts_into_the_wrong_shard_is_named() {
    let error = error_after(|dir| {
        let index = dir.join("text_encoder/model.safetensors.index.json");
        edit(
            &index,
            "\"norm.weight\": \"model-00002",
            "\"norm.weight\": \"model-00001",
        );
    });
    let expected = "text_encoder/model-00001-of-00002.safetensors: has no tensor \"norm.weight\"";
    assert!(error.starts_with(expected), "{error}");
}

#[test]
fn index_cannot_reach_outside_its_folder() {
    let error = error_after(|dir| {
        let index = dir.join("text_encoder/model.safetensors.index.json");
        edit(&index, "\"model-00001", "\"../model-00001");
    });
    assert!(
        error.contains("is not the name of a file beside it"),
        "{error}"
    );
}

#[test]
fn tensor_of_another_shape_is_named_with_both_shapes() {
    let error = error_after(|dir| {
        edit(
            &dir.join("vae/config.json"),
            "\"layers_per_block\": 1",
            "\"layers_per_block\": 2",
        )
    });
    assert!(
        error.contains("there is no tensor \"encoder.down_blocks.0.resnets.1.norm1.weight\""),
        "{error}"
    );
    let error = error_after(|dir| {
        edit(
            &dir.join("text_encoder/config.json"),
            "\"vocab_size\": 517",
            "\"vocab_size\": 518",
        )
    });
    assert!(
        error.contains("tensor \"embed_tokens.weight\" has shape [517, 72]; [518, 72] is needed"),
        "{error}"
    );
}

#[test]
fn unsound_configurations_say_what_is_wrong() {
    for (file, from, to, expected) in [
        (
            "model_index.json",
            "ZImagePipeline",
            "FluxPipeline",
            "the model's pipeline is \"FluxPipeline\"",
        ),
        (
            "transformer/config.json",
            "\"n_heads\": 7",
            "\"n_heads\": 0",
            "n_heads is 0; it must be",
        ),
        (
            "transformer/config.json",
            "\"n_heads\": 7",
            "\"n_heads\": -7",
            "failed to read the configuration",
        ),
        (
            "transformer/config.json",
            "\"dim\": 280",
            "\"dim\": 281",
            "which n_heads, 7, does not divide",
        ),
        (
            "transformer/config.json",
            "\"cap_feat_dim\": 72",
            "\"cap_feat_dim\": 64",
            "the text encoder's hidden_size is 72",
        ),
        (
            "vae/config.json",
            "\"norm_num_groups\": 6",
            "\"norm_num_groups\": 5",
            "does not divide",
        ),
        (
            "vae/config.json",
            "\"use_quant_conv\": false",
            "\"use_quant_conv\": true",
            "only false is implemented",
        ),
        (
            "scheduler/scheduler_config.json",
            "\"use_dynamic_shifting\": false",
            "\"use_dynamic_shifting\": true",
            "only false",
        ),
        (
            "text_encoder/config.json",
            "\"qwen3\"",
            "\"llama\"",
            "only \"qwen3\" is implemented",
        ),
        (
            "text_encoder/config.json",
            "{",
            "",
            "failed to read the JSON",
        ),
        (
            "tokenizer/tokenizer.json",
            "\"BPE\"",
            "\"XYZ\"",
            "failed to read the tokenizer",
        ),
        (
            "tokenizer/tokenizer.json",
            "\"decoder\":",
            "\"decoder\": {,}, \"x\":",
            "failed to read the tokenizer: the file is damaged",
        ),
        (
            "tokenizer/tokenizer_config.json",
            "{%- endif %}",
            "",
            "failed to read the chat template",
        ),
    ] {
        let error = error_after(|dir| edit(&dir.join(file), from, to));
        assert!(
            error.starts_with(&format!("{file}: ")) && error.contains(expected),
            "{error}"
        );
    }
}

#[test]
fn header_that_claims_more_than_the_file_is_refused() {
    for length in [u64::MAX, 1 << 40, 1 << 20] {
        let file = "vae/diffusion_pytorch_model.safetensors";
        let error = error_after(|dir| fs::write(dir.join(file), length.to_le_bytes()).unwrap());
        assert!(
            error.starts_with(&format!("{file}: failed to read the header")),
            "{error}"
        );
    }
}

/// For files without blocks.
fn none(format: crate::BlockFormat, _: &[u8]) -> Result<Vec<f32>, String> {
    Err(format!("{format:?}"))
}

/// The odd model's transformer as ComfyUI saves it, in one file.
fn single_file(dir: &Path) -> Vec<u8> {
    let checkpoint = Checkpoint::open(dir).unwrap();
    let mut tensors: BTreeMap<String, (Vec<usize>, Vec<u8>)> = BTreeMap::new();
    // to_q, to_k and to_v follow each other, so their rows are joined in that order.
    for Expected { name, .. } in checkpoint.expected(Component::Transformer) {
        let tensor = checkpoint.tensor(Component::Transformer, &name).unwrap();
        let stored = ["to_q", "to_k", "to_v"]
            .iter()
            .fold(name, |name, part| name.replace(part, "qkv"));
        let stored = stored
            .replace(".to_out.0.", ".out.")
            .replace("norm_q", "q_norm")
            .replace("norm_k", "k_norm")
            .replace("all_x_embedder.2-1.", "x_embedder.")
            .replace("all_final_layer.2-1.", "final_layer.");
        let stored = format!("model.diffusion_model.{stored}");
        let (shape, bytes) = tensors
            .entry(stored)
            .or_insert_with(|| ([&[0], &tensor.shape[1..]].concat(), vec![]));
        shape[0] += tensor.shape[0];
        bytes.extend(tensor.bytes.iter());
    }
    let views = tensors.iter().map(|(name, (shape, bytes))| {
        let view =
            safetensors::tensor::TensorView::new(safetensors::Dtype::BF16, shape.clone(), bytes);
        (name, view.unwrap())
    });
    safetensors::serialize(views, None).unwrap()
}

#[test]
fn single_file_of_comfyui_stands_for_the_folders_transformer() {
    let dir = model(Shape::Odd);
    let file = dir.path().join("z_image.safetensors");
    fs::write(&file, single_file(dir.path())).unwrap();
    let whole = Checkpoint::open(dir.path()).unwrap();
    let single = Checkpoint::open_with_transformer(dir.path(), &file, none).unwrap();
    single.verify().unwrap();
    for Expected { name, .. } in whole.expected(Component::Transformer) {
        let tensor = |checkpoint: &Checkpoint| {
            checkpoint
                .tensor(Component::Transformer, &name)
                .unwrap()
                .to_f32()
        };
        assert_eq!(tensor(&single), tensor(&whole), "{name}");
    }
}

#[test]
fn folders_transformer_weights_may_be_missing_beside_a_single_file() {
    let dir = model(Shape::Odd);
    let file = dir.path().join("z_image.safetensors");
    fs::write(&file, single_file(dir.path())).unwrap();
    fs::remove_file(
        dir.path()
            .join("transformer/diffusion_pytorch_model.safetensors.index.json"),
    )
    .unwrap();
    assert!(Checkpoint::open(dir.path()).is_err());
    Checkpoint::open_with_transformer(dir.path(), &file, none)
        .unwrap()
        .verify()
        .unwrap();
}

#[test]
fn single_file_of_another_model_says_which_tensor_does_not_fit() {
    let dir = model(Shape::Odd);
    let file = dir.path().join("vae/diffusion_pytorch_model.safetensors");
    let error = Checkpoint::open_with_transformer(dir.path(), &file, none)
        .unwrap()
        .verify()
        .unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("there is no tensor \"all_x_embedder.2-1.weight\""),
        "{error}"
    );
}

#[test]
fn damaged_files_give_one_line_that_names_the_folder_and_never_a_panic() {
    let dir = model(Shape::Odd);
    let mut numbers = rand_mt::Mt::new(1);
    let mut below = |limit: usize| numbers.next_u32() as usize % limit;
    let files = [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors.index.json",
        "text_encoder/model-00002-of-00002.safetensors",
        "transformer/config.json",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
    ];
    let mut refused = 0;
    for round in 0..300 {
        let path = dir.path().join(files[round % files.len()]);
        let sound = fs::read(&path).unwrap();
        let mut damaged = sound.clone();
        // The beginning, where a weight file has its header.
        let position = below(damaged.len().min(4096));
        match below(4) {
            0 => damaged.truncate(position),
            1 => damaged[position] = below(256) as u8,
            2 => drop(damaged.splice(position..position, *b"99999999")),
            _ => drop(damaged.remove(position)),
        }
        fs::write(&path, damaged).unwrap();
        let checkpoint = Checkpoint::open(dir.path());
        let result = checkpoint
            .and_then(|checkpoint| checkpoint.verify().and_then(|_| checkpoint.encode("a cat")));
        if let Err(error) = result {
            let text = error.to_string();
            assert!(
                text.starts_with(&dir.path().display().to_string()) && !text.contains('\n'),
                "{text}"
            );
            refused += 1;
        }
        fs::write(&path, sound).unwrap();
    }
    assert!(refused > 200, "only {refused} of 300 were refused");
    Checkpoint::open(dir.path()).unwrap().verify().unwrap();
}

#[test]
fn omni_parts_are_verified_like_the_others() {
    let edits = [
        (
            "siglip/config.json",
            "\"hidden_size\": 48",
            "\"hidden_size\": 96",
            "transformer/config.json: siglip_feat_dim is 48, but siglip's hidden_size is 96",
        ),
        (
            "siglip/config.json",
            "\"num_patches\": 36",
            "\"num_patches\": 40",
            "siglip/config.json: num_patches is 40; a square number is needed",
        ),
        (
            "siglip/config.json",
            "\"num_hidden_layers\": 2",
            "\"num_hidden_layers\": 3",
            "siglip/model.safetensors: there is no tensor \"encoder.layers.2.layer_norm1.weight\"",
        ),
        (
            "siglip/config.json",
            "gelu_pytorch_tanh",
            "gelu",
            "siglip/config.json: hidden_act is \"gelu\"; only \"gelu_pytorch_tanh\" is implemented",
        ),
        (
            "siglip_processor/preprocessor_config.json",
            "\"patch_size\": 8",
            "\"patch_size\": 16",
            "transformer/config.json: siglip's patch_size is 8, but siglip_processor's is 16",
        ),
        (
            "siglip_processor/preprocessor_config.json",
            "\"resample\": 2",
            "\"resample\": 3",
            "siglip_processor/preprocessor_config.json: resample is 3; only 2 is implemented",
        ),
        (
            "transformer/config.json",
            "\"siglip_feat_dim\": 48,",
            "",
            "transformer/config.json: siglip_feat_dim is not there: the transformer takes no condition images",
        ),
        (
            "model_index.json",
            "ZImageOmniPipeline",
            "ZImagePipeline",
            "transformer/config.json: siglip_feat_dim is 48; only null is implemented",
        ),
    ];
    for (file, from, to, expected) in edits {
        let error = error_of(Shape::Omni, |dir| edit(&dir.join(file), from, to));
        assert_eq!(error, expected);
    }
    let folder = error_of(Shape::Omni, |dir| {
        fs::remove_dir_all(dir.join("siglip")).unwrap()
    });
    assert!(
        folder.starts_with("siglip/config.json: failed to open"),
        "{folder}"
    );
}

#[test]
fn model_without_vision_tower_says_so() {
    let dir = model(Shape::Tiny);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert!(checkpoint.siglip().is_none() && checkpoint.components().len() == 3);
    let error = checkpoint
        .tensor(Component::Siglip, "post_layernorm.weight")
        .unwrap_err();
    assert!(error.to_string().contains("it is no Omni model"), "{error}");
}
