//! Stopping when asked to.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{Failure, INTERRUPTED, Result};

/// The ways in which a person or a system asks a program to stop.
pub(super) struct Stopping {
    interrupt: Signal,
    terminate: Signal,
}

impl Stopping {
    /// From now on the program itself sees to it.
    pub(super) fn listen() -> Result<Self> {
        let listen = |kind| signal(kind).map_err(Failure::failed);
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    pub(super) async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// Drops what is under way, and with it the processes it runs, when asked to stop.
    pub(super) async fn cuts<T>(&mut self, before: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            result = work => result,
            () = self.asked() => {
                Err(Failure::new(INTERRUPTED, format!("stopped before {before}")))
            }
        }
    }
}
