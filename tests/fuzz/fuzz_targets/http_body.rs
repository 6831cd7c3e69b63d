//! A body of `POST /v1/images/generations`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| zimage_http::fuzzing::body(data));
