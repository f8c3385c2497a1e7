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

    /// Drops an installation, and with it the processes it runs, when asked to stop.
    pub(super) async fn cuts<T>(&mut self, installation: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            result = installation => result,
            () = self.asked() => {
                let message = "stopped before a Blender was installed".to_owned();
                Err(Failure { code: INTERRUPTED, message })
            }
        }
    }
}
