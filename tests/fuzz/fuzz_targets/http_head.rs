//! The head of a request, before hyper sees it.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| zimage_edge::fuzzing::head(data));
