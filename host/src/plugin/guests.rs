//! The threads on which the code of components runs.
//!
//! They are not the host's own: what the host does for its sockets, its scheduler and its
//! database is never behind a plugin. A plugin has its code on at most all but one of them at
//! a time, however many tasks it has; it gives up its place each time the engine's epoch
//! advances, to whoever has waited for longest.

use std::cell::Cell;
use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::future::BoxFuture;
use nix::time::{ClockId, clock_gettime};
use tokio::runtime::{Handle, Runtime};
use tokio::sync::Semaphore;
use tokio_util::sync::PollSemaphore;
use tokio_util::task::AbortOnDropHandle;

/// The threads of all components of a host; clones share them.
#[derive(Debug, Clone)]
pub struct Guests(Arc<Threads>);

#[derive(Debug)]
struct Threads {
    /// There until the drop.
    runtime: Option<Runtime>,
    count: usize,
    /// By the plugins' names.
    places: Mutex<HashMap<String, Weak<Semaphore>>>,
}

/// The places of one plugin, for all its releases.
#[derive(Debug, Clone)]
pub struct Places(Arc<Semaphore>);

impl Guests {
    /// Starts as many threads as there are processors.
    pub fn start() -> io::Result<Self> {
        let count = std::thread::available_parallelism().map_or(1, usize::from);
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = Some(builder.worker_threads(count).thread_name("guest").build()?);
        Ok(Self(Arc::new(Threads { runtime, count, places: Mutex::default() })))
    }

    /// Returns the places of a plugin.
    pub fn places(&self, plugin: &str) -> Places {
        let mut all = self.0.places.lock().expect("no code panics under this lock");
        if let Some(places) = all.get(plugin).and_then(Weak::upgrade) {
            return Places(places);
        }
        let places = Arc::new(Semaphore::new((self.0.count - 1).max(1)));
        all.retain(|_, places| places.strong_count() > 0);
        all.insert(plugin.to_owned(), Arc::downgrade(&places));
        Places(places)
    }

    /// Runs a call there to its end; one that nobody waits for any more is dropped.
    pub async fn run<T: Send + 'static>(
        &self,
        places: &Places,
        call: impl Future<Output = T> + Send + 'static,
    ) -> T {
        let places = PollSemaphore::new(places.0.clone());
        let guest = Guest { host: Handle::current(), places, call: Box::pin(call) };
        let runtime = self.0.runtime.as_ref().expect("it is there until the drop");
        match AbortOnDropHandle::new(runtime.spawn(guest)).await {
            Ok(done) => done,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        // Whoever drops it may not wait.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

thread_local! {
    /// The processor time of this thread up to which it was counted.
    static COUNTED: Cell<Option<Duration>> = const { Cell::new(None) };
}

/// Returns the processor time that the code which runs on this thread has had since the last
/// time, or since it got its place. An instruction may take long, and then the epoch's turns
/// say too little.
pub fn time() -> Duration {
    let now = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from);
    let before = COUNTED.replace(Some(now));
    before.map_or(Duration::ZERO, |before| now.saturating_sub(before))
}

/// A call of a plugin's code: it has a place only while the code runs.
struct Guest<T> {
    /// Where what the host does for it goes on.
    host: Handle,
    places: PollSemaphore,
    call: BoxFuture<'static, T>,
}

impl<T> Future for Guest<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let place = ready!(self.places.poll_acquire(context));
        let _host = self.host.clone().enter();
        COUNTED.set(None);
        time();
        let done = self.call.as_mut().poll(context);
        drop(place);
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn the_host_goes_on_while_a_guest_does_not_and_a_call_is_dropped_with_who_waits() {
        let (guests, alive) = (Guests::start().unwrap(), Arc::new(()));
        let places = guests.places("spins");
        let spinning = |alive: Arc<()>| async move {
            loop {
                std::thread::sleep(std::time::Duration::from_millis(2));
                tokio::task::yield_now().await;
                let _ = &alive;
            }
        };
        let calls = (0..8).map(|_| guests.run::<()>(&places, spinning(alive.clone())));
        let all = futures_util::future::join_all(calls);
        let limit = std::time::Duration::from_millis(100);
        assert!(tokio::time::timeout(limit, all).await.is_err());
        assert_eq!(guests.run(&guests.places("another"), async { 7 }).await, 7);
        while Arc::strong_count(&alive) > 1 {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_a_guest_starts_is_the_hosts() {
        let guests = Guests::start().unwrap();
        let host = Handle::current().id();
        let of = guests.run(&guests.places("a"), async { Handle::current().id() }).await;
        assert_eq!(of, host);
    }
}
