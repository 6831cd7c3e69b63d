//! What the fuzz targets of `tests/fuzz` call; there with `--cfg fuzzing` alone, which cargo-fuzz sets.
//!
//! Each function takes any bytes. It panics when a reader accepts what a later reader could not rely on.

use crate::config::{SchedulerConfig, TextEncoderConfig, TransformerConfig, VaeConfig};
use crate::layout::{self, Expected};
use crate::lora::{self, Lora};
use crate::prompt::PromptEncoder;
use crate::single_file::transformer_names;
use crate::stored::{Format, Stored, Table, third};
use crate::table;
use crate::tensor::TensorView;
use crate::weights::Index;
use crate::{gguf, validate};
use serde::de::DeserializeOwned;
use std::fs;
use std::path::Path;
use std::sync::Once;

/// A safetensors file.
pub fn safetensors_header(data: &[u8]) {
    if let Ok(header) = table::read(data, data.len()) {
        check(&header.tensors, data);
    }
}

/// A GGUF file, with or without what it begins with.
pub fn gguf(data: &[u8]) {
    let whole = [gguf::MAGIC, data].concat();
    for file in [data, &whole] {
        if let Ok(table) = gguf::read(file, file.len()) {
            check(&table, file);
        }
    }
}

/// A transformer in one file, with the names that ComfyUI gives its tensors.
pub fn single_file(data: &[u8]) {
    let Ok(header) = table::read(data, data.len()) else {
        return;
    };
    for (name, stored) in &header.tensors {
        for (_, part) in transformer_names(name) {
            if let Some(part) = part.and_then(|number| third(stored, number)) {
                check_stored(&part, data);
            }
        }
    }
}

/// A LoRA or LoKR file, merged into a few weights of every kind that such a file can name.
pub fn lora(data: &[u8]) {
    let path = std::env::temp_dir().join(format!("zimage-fuzz-{}", std::process::id()));
    fs::write(&path, data).expect("the folder for temporary files can be written");
    let merged = merge_lora(&path);
    fs::remove_file(&path).expect("the file was just written");
    for (expected, values) in merged.into_iter().flatten() {
        assert_eq!(expected.shape.iter().product::<usize>(), values.len());
    }
}

fn merge_lora(path: &Path) -> Option<Vec<(Expected, Vec<f32>)>> {
    let weight = |name: &str, shape: [usize; 2]| Expected {
        name: format!("{name}.weight"),
        shape: shape.to_vec(),
    };
    let transformer = [
        weight("layers.0.attention.to_q", [8, 8]),
        weight("layers.0.attention.to_k", [8, 8]),
        weight("layers.0.attention.to_v", [8, 8]),
        weight("layers.0.feed_forward.w1", [16, 8]),
        weight("all_final_layer.2-1.linear", [4, 8]),
    ];
    let loras = [Lora::open(path, -0.5).ok()?.fit(&transformer).ok()?];
    let merge = |expected: Expected| {
        let zeros = vec![0.0; expected.shape.iter().product()];
        let stored = TensorView::owned(expected.shape.clone(), &zeros);
        let merged = lora::merge(&loras, &expected.name, stored).ok()?;
        Some((expected, merged.to_f32()))
    };
    Some(transformer.into_iter().filter_map(merge).collect())
}

/// A `*.safetensors.index.json`.
pub fn safetensors_index(data: &[u8]) {
    let Ok(index) = serde_json::from_slice::<Index>(data) else {
        return;
    };
    for file in index.files().into_iter().flatten() {
        let path = Path::new("folder").join(file);
        assert_eq!(path.parent(), Some(Path::new("folder")), "{file}");
    }
}

/// Any `config.json`.
pub fn config(data: &[u8]) {
    let expected = [
        parsed::<TextEncoderConfig>(data)
            .filter(|config| validate::text_encoder(config).is_ok())
            .map(|config| layout::text_encoder(&config)),
        parsed::<TransformerConfig>(data)
            .filter(|config| validate::transformer(config).is_ok())
            .map(|config| layout::transformer(&config)),
        parsed::<VaeConfig>(data)
            .filter(|config| validate::vae(config).is_ok())
            .map(|config| layout::vae(&config)),
    ];
    for Expected { name, shape } in expected.into_iter().flatten().flatten() {
        let values = shape
            .iter()
            .try_fold(1_usize, |all, &length| all.checked_mul(length));
        assert!(values.is_some(), "{name} {shape:?}");
    }
    parsed::<SchedulerConfig>(data);
}

/// `tokenizer.json`, a zero, and the chat template.
pub fn tokenizer(data: &[u8]) {
    // The library's panics are caught where it is called; libFuzzer's hook would end the process before that. It ends it
    // as well when a panic arrives at it.
    static QUIET: Once = Once::new();
    QUIET.call_once(|| std::panic::set_hook(Box::new(|_| {})));
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let (tokenizer, template) = text
        .split_once('\0')
        .unwrap_or((text, "{{ messages[0].content }}"));
    let (path, template) = (Path::new("tokenizer.json"), template.to_owned());
    if let Ok(encoder) = PromptEncoder::new((path, tokenizer), (path, template)) {
        let _ = encoder.encode("a cat, 猫 <|im_end|>");
    }
}

fn parsed<T: DeserializeOwned>(data: &[u8]) -> Option<T> {
    serde_json::from_slice(data).ok()
}

fn check(table: &Table, file: &[u8]) {
    table.values().for_each(|stored| check_stored(stored, file));
}

/// The tensor's bytes are in the file, and there are as many as its shape says.
fn check_stored(stored: &Stored, file: &[u8]) {
    // Nothing is computed with the shape of a format that is not read.
    let (per_block, bytes) = match &stored.format {
        Format::Plain(dtype) => (1, dtype.bytes()),
        Format::Blocks(format) => (format.values(), format.bytes()),
        Format::Unknown(_) => return,
    };
    let values: usize = stored.shape.iter().product();
    assert_eq!(stored.range.len(), values / per_block * bytes, "{stored:?}");
    assert!(file.get(stored.range.clone()).is_some(), "{stored:?}");
}
