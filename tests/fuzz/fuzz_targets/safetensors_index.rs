//! A `*.safetensors.index.json`: the files that it names are beside it.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| zimage_checkpoint::fuzzing::safetensors_index(data));
