//! A ComfyUI file: its names, and the thirds of its joined projections.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| zimage_checkpoint::fuzzing::single_file(data));
