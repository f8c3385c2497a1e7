//! What a component prints: its end is kept, in case it dies.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

/// How much is kept, in bytes.
const KEPT: usize = 64 * 1024;
/// How much is taken at once, in bytes.
const CHUNK: usize = 64 * 1024;

/// A stream that never fills: what is old gives way. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Printed(Arc<Mutex<VecDeque<u8>>>);

impl Printed {
    /// Returns the end of what was printed.
    pub fn text(&self) -> String {
        let mut kept = self.0.lock().expect("no code panics under this lock");
        String::from_utf8_lossy(kept.make_contiguous()).trim().to_owned()
    }

    fn add(&self, bytes: &[u8]) {
        let mut kept = self.0.lock().expect("no code panics under this lock");
        kept.extend(&bytes[bytes.len().saturating_sub(KEPT)..]);
        let surplus = kept.len().saturating_sub(KEPT);
        kept.drain(..surplus);
    }
}

impl OutputStream for Printed {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.add(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(CHUNK)
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Printed {
    async fn ready(&mut self) {}
}

impl AsyncWrite for Printed {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.add(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl IsTerminal for Printed {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Printed {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }

    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_much_is_kept() {
        let printed = Printed::default();
        (0..100_000).for_each(|line| printed.add(format!("line {line}\n").as_bytes()));
        let text = printed.text();
        assert!(text.len() <= KEPT && text.ends_with("line 99998\nline 99999"), "{}", text.len());
        printed.add(&[b'x'; 2 * KEPT]);
        assert_eq!(printed.text(), "x".repeat(KEPT));
    }
}
