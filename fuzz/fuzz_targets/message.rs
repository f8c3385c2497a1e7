//! What a stranger can send: lines, and what each asks for.
#![no_main]

use tokio::runtime::{Builder, Runtime};

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread().enable_time().build().unwrap();
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    hotshoe::api::understand(bytes);
    RUNTIME.with(|runtime| runtime.block_on(hotshoe::api::overhear(bytes.to_vec())));
});
