#![no_main]

#[path = "../src/postgres.rs"]
#[allow(dead_code, reason = "one of several targets")]
mod targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::conninfo(data));
