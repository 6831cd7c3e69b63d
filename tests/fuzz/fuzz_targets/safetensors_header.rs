//! A safetensors file: its header, and where it says that tensors lie.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| zimage_checkpoint::fuzzing::safetensors_header(data));
