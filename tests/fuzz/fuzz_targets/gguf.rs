//! A GGUF file: metadata and tensor table.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| zimage_checkpoint::fuzzing::gguf(data));
