//! The configuration reader on any bytes.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sluice::config::fuzz_syntax(data));
