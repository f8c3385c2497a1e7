//! What a stranger can send: a line, and what it asks for.
#![no_main]

libfuzzer_sys::fuzz_target!(|line: &[u8]| {
    hotshoe::api::understand(line);
});
