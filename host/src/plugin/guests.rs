//! The threads on which the code of components runs.
//!
//! They are not the host's own: what the host does for its sockets, its scheduler and its
//! database is never behind a plugin. A plugin has its code on at most all but one of them at
//! a time, however many tasks it has; it gives up its place each time the engine's epoch
//! advances, to whoever has waited for longest. A call that computes for long goes on on
//! threads that are less urgent.

use std::cell::Cell;
use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::future::BoxFuture;
use nix::libc;
use nix::time::{ClockId, clock_gettime};
use tokio::runtime::{Handle, Runtime};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::PollSemaphore;
use tokio_util::task::AbortOnDropHandle;

use crate::capability::Attempt;

/// After so much processor time a call counts as one that computes for long.
const LONG: Duration = Duration::from_millis(100);
/// How much less urgent such calls are than all else (a nice value).
const LESS_URGENT: libc::c_int = 10;

/// The threads of all components of a host; clones share them.
#[derive(Debug, Clone)]
pub struct Guests(Arc<Threads>);

#[derive(Debug)]
struct Threads {
    /// For calls that are new, and for those that compute for long; there until the drop.
    lanes: Option<[Runtime; 2]>,
    count: usize,
    /// By the plugins' names.
    places: Mutex<HashMap<String, Weak<Semaphore>>>,
}

/// The places of one plugin, for all its releases.
#[derive(Debug, Clone)]
pub struct Places(Arc<Semaphore>);

impl Guests {
    /// Starts as many threads of each kind as there are processors.
    pub fn start() -> io::Result<Self> {
        let count = std::thread::available_parallelism().map_or(1, usize::from);
        let lane = |name: &str, less_urgent: libc::c_int| {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            builder.worker_threads(count).thread_name(name).on_thread_start(move || {
                // SAFETY: a bare call of the kernel; Linux takes it for the thread that makes it.
                unsafe { libc::nice(less_urgent) };
            });
            builder.build()
        };
        let lanes = Some([lane("guest", 0)?, lane("guest-long", LESS_URGENT)?]);
        Ok(Self(Arc::new(Threads { lanes, count, places: Mutex::default() })))
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

    /// Runs a call there to its end, for an attempt or for none; one that nobody waits for any more
    /// is dropped.
    pub async fn run<T: Send + 'static>(
        &self,
        places: &Places,
        attempt: Option<Arc<Attempt>>,
        call: impl Future<Output = T> + Send + 'static,
    ) -> T {
        let guest = |call, patience| {
            let (host, places) = (Handle::current(), PollSemaphore::new(places.0.clone()));
            let attempt = attempt.clone();
            let guest = Guest { host, places, attempt, call: Some(call), used: Duration::ZERO, patience };
            // To wait for a thread, for a place or for its next turn is not to be idle.
            guest.computes(true);
            guest
        };
        let [new, long] = self.0.lanes.as_ref().expect("they are there until the drop");
        let call: BoxFuture<'static, T> = Box::pin(call);
        match ended(new.spawn(guest(call, LONG))).await {
            Ok(done) => done,
            Err(call) => match ended(long.spawn(guest(call, Duration::MAX))).await {
                Ok(done) => done,
                Err(_) => unreachable!("nobody computes for ever and is not cut"),
            },
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        // Whoever drops it may not wait.
        self.lanes.take().into_iter().flatten().for_each(Runtime::shutdown_background);
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
    let now = thread_time();
    let before = COUNTED.replace(Some(now));
    before.map_or(Duration::ZERO, |before| now.saturating_sub(before))
}

/// A call of a plugin's code: it has a place only while the code runs.
struct Guest<T> {
    /// Where what the host does for it goes on.
    host: Handle,
    places: PollSemaphore,
    attempt: Option<Arc<Attempt>>,
    /// There until the end.
    call: Option<BoxFuture<'static, T>>,
    /// Processor time that it has had, and how much it may have here.
    used: Duration,
    patience: Duration,
}

impl<T> Guest<T> {
    fn computes(&self, now: bool) {
        if let Some(attempt) = &self.attempt {
            attempt.used.computes(now);
        }
    }
}

impl<T> Future for Guest<T> {
    /// What the call comes to; or the call itself, if it computes for too long.
    type Output = Result<T, BoxFuture<'static, T>>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        this.computes(true);
        let place = ready!(this.places.poll_acquire(context));
        let host = this.host.clone();
        let _host = host.enter();
        let began = thread_time();
        COUNTED.set(Some(began));
        let call = this.call.as_mut().expect("it is there until the end");
        let done = call.as_mut().poll(context);
        drop(place);
        // As far as it was counted: a call that was never interrupted has not computed for long.
        let counted = COUNTED.get().unwrap_or(began);
        this.used += counted.saturating_sub(began);
        this.computes(done.is_pending() && counted != began);
        match done {
            Poll::Ready(done) => Poll::Ready(Ok(done)),
            Poll::Pending if this.used > this.patience => {
                Poll::Ready(Err(this.call.take().expect("it is there until the end")))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

/// Waits for the end of a guest; one that nobody waits for any more is dropped.
async fn ended<T>(guest: JoinHandle<T>) -> T {
    match AbortOnDropHandle::new(guest).await {
        Ok(ended) => ended,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

fn thread_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
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
        let calls = (0..8).map(|_| guests.run::<()>(&places, None, spinning(alive.clone())));
        let all = futures_util::future::join_all(calls);
        let limit = std::time::Duration::from_millis(100);
        assert!(tokio::time::timeout(limit, all).await.is_err());
        assert_eq!(guests.run(&guests.places("another"), None, async { 7 }).await, 7);
        while Arc::strong_count(&alive) > 1 {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_a_guest_starts_is_the_hosts() {
        let guests = Guests::start().unwrap();
        let host = Handle::current().id();
        let of = guests.run(&guests.places("a"), None, async { Handle::current().id() }).await;
        assert_eq!(of, host);
    }
}
