//! Log formats and the lines they write, on any bytes.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sluice::telemetry::fuzz_formats(data));
