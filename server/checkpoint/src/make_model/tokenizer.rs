//! A byte-level BPE tokenizer of Qwen's form with a few merges, so that any text has tokens.

use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Qwen2's pattern of what is a word.
const WORD_PATTERN: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The words that are one token. The template's two come first, so that no other merge breaks them.
const WORDS: [&str; 16] = [
    "user",
    "assistant",
    "Ġa",
    "Ġthe",
    "Ġof",
    "Ġin",
    "Ġand",
    "Ġcat",
    "Ġdog",
    "Ġred",
    "Ġblue",
    "Ġhouse",
    "Ġsnow",
    "Ġnight",
    "ing",
    "er",
];

/// Added tokens and whether they are special; Qwen's, in Qwen's order.
const ADDED: [(&str, bool); 7] = [
    ("<|endoftext|>", true),
    ("<|im_start|>", true),
    ("<|im_end|>", true),
    ("<|vision_start|>", true),
    ("<|vision_end|>", true),
    ("<think>", false),
    ("</think>", false),
];

/// The files of the `tokenizer` folder with their contents.
pub(super) fn files() -> Vec<(&'static str, Vec<u8>)> {
    let (vocabulary, merges) = vocabulary();
    let merges_text = format!("#version: 0.2\n{}\n", merges.join("\n"));
    vec![
        (
            "tokenizer.json",
            super::json_file(tokenizer(&vocabulary, &merges)),
        ),
        (
            "tokenizer_config.json",
            super::json_file(tokenizer_config(vocabulary.len())),
        ),
        ("vocab.json", super::json_file(json!(vocabulary))),
        ("merges.txt", merges_text.into_bytes()),
    ]
}

/// The characters that stand for bytes in GPT-2's vocabulary: printable bytes for themselves, the others from U+0100 on.
fn byte_characters() -> Vec<char> {
    let printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let own = (0..=u8::MAX).filter(printable).map(char::from);
    let others = (0..=u8::MAX).filter(|byte| !printable(byte)).zip(0x100..);
    own.chain(others.filter_map(|(_, code)| char::from_u32(code)))
        .collect()
}

/// Tokens with their ids, and the merges that make them, best first.
fn vocabulary() -> (BTreeMap<String, usize>, Vec<String>) {
    let mut tokens: BTreeMap<String, usize> = BTreeMap::new();
    for character in byte_characters() {
        let id = tokens.len();
        tokens.insert(character.to_string(), id);
    }
    let mut merges = Vec::new();
    for word in WORDS {
        let mut token = String::new();
        for character in word.chars() {
            let longer = format!("{token}{character}");
            if !tokens.contains_key(&longer) {
                merges.push(format!("{token} {character}"));
                let id = tokens.len();
                tokens.insert(longer.clone(), id);
            }
            token = longer;
        }
    }
    (tokens, merges)
}

fn tokenizer(vocabulary: &BTreeMap<String, usize>, merges: &[String]) -> Value {
    let added: Vec<Value> = (vocabulary.len()..)
        .zip(ADDED)
        .map(|(id, (content, special))| {
            json!({
                "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": special,
            })
        })
        .collect();
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": WORD_PATTERN}, "behavior": "Isolated", "invert": false},
            byte_level,
        ]},
        "post_processor": byte_level,
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
            "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocabulary,
            "merges": merges.iter().map(|merge| merge.split(' ').collect::<Vec<_>>()).collect::<Vec<_>>(),
        },
    })
}

fn tokenizer_config(first_added: usize) -> Value {
    let added: serde_json::Map<String, Value> = (first_added..)
        .zip(ADDED)
        .map(|(id, (content, special))| {
            let token = json!({
                "content": content, "lstrip": false, "normalized": false, "rstrip": false, "single_word": false,
                "special": special,
            });
            (id.to_string(), token)
        })
        .collect();
    json!({
        "add_bos_token": false,
        "add_prefix_space": false,
        "added_tokens_decoder": added,
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"],
        "bos_token": null,
        "chat_template": include_str!("chat_template.jinja"),
        "clean_up_tokenization_spaces": false,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 131_072,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": false,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": null,
    })
}
