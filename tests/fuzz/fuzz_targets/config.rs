//! Any `config.json`: what is accepted implies tensors whose sizes can be computed.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| zimage_checkpoint::fuzzing::config(data));
