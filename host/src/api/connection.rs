//! One connection: hello first, then requests, each answered in its own time.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::{PROTOCOL, wire};
use crate::rpc::{self, ErrorObject, Incoming, Peer, Request};
use crate::service::{Service, ServiceError};
use crate::store::events::Subscription;
use crate::terms::JobId;

/// How long a client may take to say hello.
const HELLO: std::time::Duration = std::time::Duration::from_secs(10);
/// How long what was asked may take when the connection or the host ends.
const REST: std::time::Duration = std::time::Duration::from_secs(2);
/// How many subscriptions one connection may have.
const SUBSCRIPTIONS: usize = 16;
/// How many events are told in one message: each may have the text of a long error.
const TOGETHER: usize = 64;

/// What a client says first.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Hello {
    /// What it is: `client`.
    pub role: String,
    /// The version of the messages that it speaks.
    pub protocol: u32,
    /// Optional features that it would like to use; none so far.
    #[serde(default)]
    pub features: Vec<String>,
    /// The content of the token file beside the socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

/// What the host answers.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Welcome {
    /// The version of the messages that it speaks.
    pub protocol: u32,
    /// The optional features that will be used.
    pub features: Vec<String>,
    /// The version of the host.
    pub host: String,
    /// Its data directory.
    pub data: PathBuf,
}

/// What belongs to one connection.
pub(super) struct Connection {
    pub(super) service: Arc<Service>,
    pub(super) session: OnceLock<String>,
    peer: Arc<Peer>,
    token: Option<Arc<str>>,
    greeted: OnceLock<()>,
    subscriptions: Mutex<HashMap<u64, AbortHandle>>,
}

/// Serves a connection until its end.
pub(super) async fn serve(
    reading: impl AsyncRead + Send + Unpin + 'static,
    writing: impl AsyncWrite + Send + Unpin + 'static,
    service: Arc<Service>,
    token: Option<Arc<str>>,
    limits: rpc::Limits,
    stop: CancellationToken,
) {
    let (peer, incoming) = Peer::start(reading, writing, limits);
    let connection = Arc::new(Connection {
        service,
        session: OnceLock::new(),
        peer: Arc::new(peer),
        token,
        greeted: OnceLock::new(),
        subscriptions: Mutex::default(),
    });
    connection.clone().answer_all(incoming, stop).await;
    connection.end_pumps();
    let _ = tokio::time::timeout(REST, connection.peer.flushed()).await;
}

impl Connection {
    async fn answer_all(self: Arc<Self>, mut incoming: mpsc::Receiver<Incoming>, stop: CancellationToken) {
        let mut answering = JoinSet::new();
        let late = tokio::time::sleep(HELLO);
        tokio::pin!(late);
        loop {
            let message = tokio::select! {
                message = incoming.recv() => message,
                () = &mut late, if self.greeted.get().is_none() => {
                    tracing::warn!("closing a connection that never said hello");
                    return;
                }
                () = stop.cancelled() => break,
                // Those that are done are let go of.
                Some(_) = answering.join_next() => continue,
            };
            match message {
                Some(Incoming::Request(request)) => {
                    // Hello decides on all that comes after it.
                    match self.greeted.get() {
                        None => self.clone().answer(request).await,
                        Some(()) => drop(answering.spawn(self.clone().answer(request))),
                    }
                }
                // A client has nothing to tell that nobody asked for.
                Some(Incoming::Notification(_)) => {}
                None => break,
            }
        }
        // What was asked before is still answered.
        let rest = async { while answering.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(REST, rest).await;
    }

    async fn answer(self: Arc<Self>, mut request: Request) {
        let params = std::mem::take(&mut request.params);
        let canceled = request.canceled.clone();
        let work = async {
            match request.method.as_str() {
                "hello" => Some(self.hello(params)),
                _ if self.greeted.get().is_none() => Some(Err(wire::not_greeted())),
                method => wire::dispatch(&self, method, params).await,
            }
        };
        let answer = tokio::select! {
            answer = work => answer,
            () = canceled.cancelled() => Some(Err(ErrorObject::new(rpc::CANCELED, "canceled"))),
        };
        match answer {
            Some(answer) => request.answer(answer).await,
            None => request.refuse_method().await,
        }
    }

    fn hello(&self, params: serde_json::Value) -> wire::Answer {
        let hello: Hello = serde_json::from_value(params).map_err(|error| wire::bad_params(&error))?;
        if hello.role != "client" {
            return Err(wire::denied("this socket is for the role \"client\" only"));
        }
        if hello.protocol != PROTOCOL {
            return Err(wire::denied(&format!(
                "this host speaks protocol {PROTOCOL}, not {}",
                hello.protocol
            )));
        }
        if self.token.as_deref().is_some_and(|token| hello.token.as_deref() != Some(token)) {
            return Err(wire::denied("the token is not the one in the token file beside the socket"));
        }
        let _ = self.greeted.set(());
        let host = env!("CARGO_PKG_VERSION").to_owned();
        let data = self.service.host().data;
        let welcome = Welcome { protocol: PROTOCOL, features: Vec::new(), host, data };
        Ok(serde_json::to_value(welcome).expect("a welcome is plain data"))
    }

    /// Makes this the connection of a session; it has one at most.
    pub(super) fn enter(&self, session: &str) -> Result<(), ServiceError> {
        match self.session.get_or_init(|| session.to_owned()) == session {
            true => Ok(()),
            false => Err(ServiceError::Parameter("this connection has another session already".to_owned())),
        }
    }

    /// Sends events, and progress if it is wanted, until the client goes or does not want them.
    pub(super) fn pump(
        self: &Arc<Self>,
        mut subscription: Subscription,
        job: Option<JobId>,
        progress: bool,
    ) -> Result<u64, &'static str> {
        let mut subscriptions = self.subscriptions.lock().expect("no code panics under this lock");
        subscriptions.retain(|_, pump| !pump.is_finished());
        if subscriptions.len() >= SUBSCRIPTIONS {
            return Err("a connection has at most 16 subscriptions");
        }
        let id = (1..).find(|id| !subscriptions.contains_key(id)).unwrap_or_default();
        let (peer, mut reports) = (self.peer.clone(), self.service.progress());
        let wanted = move |of: Option<JobId>| job.is_none() || job == of;
        let happens = {
            let peer = peer.clone();
            async move {
                loop {
                    let events = match subscription.next().await {
                        Ok(events) => events,
                        Err(error) => {
                            tracing::error!(%error, "events cannot be read; trying again");
                            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                            continue;
                        }
                    };
                    let events: Vec<_> = events
                        .iter()
                        .map(|event| &**event)
                        .filter(|event| wanted(event.kind.job()))
                        .collect();
                    for events in events.chunks(TOGETHER) {
                        let news = json!({"subscription": id, "events": events});
                        if peer.notify("events", &news).await.is_err() {
                            return;
                        }
                    }
                }
            }
        };
        let goes_on = async move {
            if !progress {
                return;
            }
            loop {
                match reports.recv().await {
                    Ok(report) if wanted(Some(report.job)) => {
                        let news = json!({"subscription": id, "progress": *report});
                        if peer.notify("progress", &news).await.is_err() {
                            return;
                        }
                    }
                    // Skipping some is what progress is for.
                    Ok(_) | Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return,
                }
            }
        };
        let pump = tokio::spawn(async move { tokio::join!(happens, goes_on) });
        subscriptions.insert(id, pump.abort_handle());
        Ok(id)
    }

    fn end_pumps(&self) {
        let subscriptions = self.subscriptions.lock().expect("no code panics under this lock");
        subscriptions.values().for_each(AbortHandle::abort);
    }

    /// Ends a subscription; false if there is none.
    pub(super) fn end_pump(&self, id: u64) -> bool {
        let mut subscriptions = self.subscriptions.lock().expect("no code panics under this lock");
        subscriptions.remove(&id).map(|pump| pump.abort()).is_some()
    }
}
