#![no_main]

#[path = "../src/pgbackrest.rs"]
#[allow(dead_code, reason = "one of several targets")]
mod targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::verification(data));
