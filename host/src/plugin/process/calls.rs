//! The calls between a process and its host, both ways.
//!
//! A call of the process is an attempt: what it calls back meanwhile is carried out one
//! after another, and all that it holds is dropped when the attempt is over.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::instance::{Fault, Instance, STEP};
use crate::capability::usage::Rate;
use crate::capability::{Attempt, CapabilityError, Code, ERROR_TEXT, abridged, harmless};
use crate::plugin::wire::{Arguments, CONTRACT_ERROR, Held, NO_ATTEMPT, Refusal, Wire};
use crate::plugin::{PluginError, TOLD};
use crate::rpc::{self, ErrorObject, Incoming, Pending, Request};

/// The place of one task in a process.
#[derive(Debug)]
pub(super) struct Seat {
    /// The process.
    pub(super) instance: Arc<Instance>,
}

impl Seat {
    /// Takes a place in a process, if it has one.
    pub(super) fn take(instance: &Arc<Instance>, most: u32) -> Option<Self> {
        if instance.is_retired() || instance.has_died() {
            return None;
        }
        let taken = instance
            .busy
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |busy| (busy < most).then_some(busy + 1));
        taken.is_ok().then(|| Self { instance: instance.clone() })
    }

    /// Whether it is a place in that process.
    pub(super) fn is_in(&self, instance: &Arc<Instance>) -> bool {
        Arc::ptr_eq(&self.instance, instance)
    }

    /// Makes a call; all that the process holds for it is dropped at its end.
    pub(super) async fn call<T: Wire>(
        &self,
        attempt: Option<Arc<Attempt>>,
        method: &str,
        params: impl FnOnce(&mut Held) -> Result<Map<String, Value>, Refusal>,
    ) -> Result<T, PluginError> {
        let instance = &self.instance;
        let has_attempt = attempt.is_some();
        let mut held = instance.held(attempt);
        let mut params = params(&mut held).map_err(|refusal| {
            PluginError::Host(format!("the call cannot be written: {}", ErrorObject::from(refusal).message))
        })?;
        let mut serving = None;
        if has_attempt {
            let id = instance.processes.0.next_attempt.fetch_add(1, Ordering::Relaxed);
            params.insert("attempt".to_owned(), id.into());
            // As many as the other side may have open at a time.
            let (queue, calls) = mpsc::channel(rpc::Limits::of_a_child().requests);
            instance.attempts().insert(id, queue);
            let (registered, over) = (Registered { instance, id }, CancellationToken::new());
            let attending = tokio::spawn(attend(held, calls, over.clone(), Arc::downgrade(instance)));
            serving = Some((registered, over.drop_guard(), attending));
        }
        let answer = self.answer(method, params).await;
        if let Some((registered, over, attending)) = serving {
            // Its handles drop before the attempt is over.
            drop((registered, over));
            let _ = attending.await;
        }
        // What a plugin answers with holds no handles.
        instance.held(None).read(answer?).map_err(|refusal| {
            let what = ErrorObject::from(refusal).message;
            PluginError::Contract(format!("its answer to {method} does not fit: {what}"))
        })
    }

    /// Sends a call and waits for its answer.
    pub(super) async fn answer(
        &self,
        method: &str,
        params: Map<String, Value>,
    ) -> Result<Value, PluginError> {
        let instance = &self.instance;
        let Ok(pending) = instance.peer.ask(method, &params).await else { return Err(instance.end().await) };
        let mut call = Call { instance, pending: Some(pending) };
        let answer = call.pending.as_mut().expect("it is there until the drop").answer().await;
        call.pending = None;
        match answer {
            Some(answer) => answer.map_err(told),
            None => Err(instance.end().await),
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let instance = &self.instance;
        let served = instance.served.fetch_add(1, Ordering::Relaxed) + 1;
        let is_last = instance.busy.fetch_sub(1, Ordering::Relaxed) == 1;
        if served >= instance.limits.tasks {
            instance.retire_quietly("it has served its time");
        }
        if is_last && (instance.is_retired() || instance.alone) {
            instance.retire("its task is over");
        }
    }
}

/// An attempt that calls are served for.
struct Registered<'a> {
    instance: &'a Instance,
    id: u64,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.instance.attempts().remove(&self.id);
    }
}

/// A call of the process. One that nobody waits for any more is canceled, and the
/// process ended if it does not heed that.
struct Call<'a> {
    instance: &'a Arc<Instance>,
    pending: Option<Pending>,
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        let Some(mut pending) = self.pending.take() else { return };
        let instance = self.instance.clone();
        // Its place is not free before it has ended.
        instance.busy.fetch_add(1, Ordering::Relaxed);
        let seat = Seat { instance: instance.clone() };
        tokio::spawn(async move {
            let _seat = seat;
            let heeded = async {
                if instance.peer.notify("$/cancel", &json!({"id": pending.id})).await.is_ok() {
                    pending.answer().await;
                }
            };
            if tokio::time::timeout(STEP, heeded).await.is_err() {
                let what = format!("did not end a canceled call within {} s", STEP.as_secs());
                instance.break_off(Fault::Rule(what));
            }
        });
    }
}

/// How many calls a second a process may make for attempts that are over.
const LATE_CALLS: u64 = 10_000;

/// Takes what a process says by itself to the attempts that it says it for.
pub(super) async fn serve(mut incoming: mpsc::Receiver<Incoming>, instance: Weak<Instance>) {
    let mut late = Rate::default();
    while let Some(message) = incoming.recv().await {
        let Some(instance) = instance.upgrade() else { return };
        let request = match message {
            Incoming::Request(request) => request,
            Incoming::Notification(notification) => {
                let method = harmless(notification.method, 64);
                let what = format!("sent the notification '{method}', which is none of the contract");
                return instance.break_off(Fault::Rule(what));
            }
        };
        let attempt = request.params.get("attempt").and_then(Value::as_u64);
        let queue = attempt.and_then(|attempt| instance.attempts().get(&attempt).cloned());
        if queue.is_some() {
            instance.calls.fetch_add(1, Ordering::Relaxed);
        } else if !late.has_room(LATE_CALLS) {
            let what = format!("called the host {LATE_CALLS} times a second for attempts that are over");
            return instance.break_off(Fault::Rule(what));
        }
        drop(instance);
        let refused = match (queue, attempt) {
            (Some(queue), _) => match queue.try_send(request) {
                Ok(()) => continue,
                Err(unsent) => (unsent.into_inner(), ErrorObject::new(NO_ATTEMPT, "the attempt is over")),
            },
            (None, Some(attempt)) => {
                let what = format!("there is no attempt {attempt}: it is over, or was never this process's");
                (request, ErrorObject::new(NO_ATTEMPT, what))
            }
            (None, None) => {
                let what = "attempt: every call says which attempt it belongs to";
                (request, ErrorObject::new(rpc::INVALID_PARAMS, what))
            }
        };
        let (request, error) = refused;
        request.answer(Err(error)).await;
    }
}

/// Carries out the calls of one attempt, one after another as they came, until it is over.
async fn attend(
    mut held: Held,
    mut calls: mpsc::Receiver<Request>,
    over: CancellationToken,
    instance: Weak<Instance>,
) {
    let late = || ErrorObject::new(NO_ATTEMPT, "the attempt is over");
    loop {
        let request = tokio::select! {
            biased;
            () = over.cancelled() => break,
            request = calls.recv() => request,
        };
        let Some(mut request) = request else { return };
        let (method, params) = (std::mem::take(&mut request.method), std::mem::take(&mut request.params));
        let canceled = request.canceled.clone();
        let reply = tokio::select! {
            reply = carry_out(&mut held, &method, params) => reply.map_err(|refusal| {
                if let (Refusal::Hit(hit), Some(instance)) = (&refusal, instance.upgrade()) {
                    instance.break_off(Fault::Limit(hit.to_string()));
                }
                refusal.into()
            }),
            () = canceled.cancelled() => Err(ErrorObject::new(rpc::CANCELED, "canceled")),
            () = over.cancelled() => Err(late()),
        };
        request.answer(reply).await;
    }
    drop(held);
    calls.close();
    // Whoever asked too late still hears of it, if it listens.
    while let Ok(request) = calls.try_recv() {
        tokio::spawn(request.answer(Err(late())));
    }
}

async fn carry_out(held: &mut Held, method: &str, params: Value) -> Result<Value, Refusal> {
    held.call(method, Arguments::new(params)?).await
}

/// Says what an error of a process means: the contract's own, else that it panicked.
fn told(error: ErrorObject) -> PluginError {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Told {
        Error { code: Code, message: String },
        Panic { trace: String },
    }
    match serde_json::from_value(error.data) {
        Ok(Told::Error { code, message }) if error.code == CONTRACT_ERROR => {
            PluginError::Answer(CapabilityError::new(code, abridged(message, ERROR_TEXT)))
        }
        Ok(Told::Panic { trace }) if error.code != CONTRACT_ERROR => {
            let lines = trace.lines().map(|line| format!("\n  {line}")).collect::<String>();
            PluginError::Panic(abridged(error.message + &lines, TOLD))
        }
        _ => PluginError::Panic(abridged(error.message, TOLD)),
    }
}
