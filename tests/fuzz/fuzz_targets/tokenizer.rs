//! `tokenizer.json` and a chat template, and a prompt through both.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| zimage_checkpoint::fuzzing::tokenizer(data));
