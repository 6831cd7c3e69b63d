//! A LoRA or LoKR file: its keys, its scales, and the sums that it asks for.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| zimage_checkpoint::fuzzing::lora(data));
