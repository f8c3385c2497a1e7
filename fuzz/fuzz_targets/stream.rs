//! What a stranger can send: lines, read as a connection reads them.
#![no_main]

use tokio::runtime::{Builder, Runtime};

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread().enable_time().build().unwrap();
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    RUNTIME.with(|runtime| runtime.block_on(hotshoe::api::overhear(bytes.to_vec())));
});
