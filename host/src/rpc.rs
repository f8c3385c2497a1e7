//! A JSON-RPC 2.0 peer: one message a line, both sides may ask.
//!
//! Owns the framing, the ids, the calls that wait for an answer, and the limits
//! that keep one side from hurting the other. Knows no method but `$/cancel`, and
//! no error code beyond those of the specification.

mod reader;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufWriter};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use reader::Reader;

/// The longest line that is read, in bytes.
pub const MAX_LINE: usize = 16 * 1024 * 1024;
/// How many messages may wait to be written or read before the sender waits.
const QUEUE: usize = 64;

/// Not JSON.
pub const PARSE_ERROR: i64 = -32700;
/// JSON, and yet no request.
pub const INVALID_REQUEST: i64 = -32600;
/// No such method.
pub const METHOD_NOT_FOUND: i64 = -32601;
/// Parameters that the method does not take.
pub const INVALID_PARAMS: i64 = -32602;
/// The fault is this side's own.
pub const INTERNAL_ERROR: i64 = -32603;
/// The caller did not want the answer any more (as in the Language Server Protocol).
pub const CANCELED: i64 = -32800;

/// How much may wait to be written of what is told without being asked for, in bytes: a slow reader
/// holds up what tells him, and nobody else.
const TOLD: usize = 256 * 1024;

/// What the other side may do.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of a line.
    pub line: usize,
    /// Requests that it waits for at a time; more are not read.
    pub requests: usize,
    /// Bytes of all of these together; one of them may be longer.
    pub bytes: usize,
    /// How long a line may take from its first byte to its last, and how long an
    /// answer may wait to be taken.
    pub patience: Duration,
    /// Lines that are no messages, before the connection is closed.
    pub nonsense: u32,
    /// Room for the long lines of all connections that share it, in KiB: each takes room for the
    /// longest one.
    pub shared: Option<Arc<Semaphore>>,
}

impl Limits {
    /// Limits for a process that the host has started.
    pub fn of_a_child() -> Self {
        let patience = Duration::from_secs(60);
        Self { line: MAX_LINE, requests: 1024, bytes: MAX_LINE, patience, nonsense: 0, shared: None }
    }
}

/// Why a call gave no result.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The other side answered with an error.
    #[error("{}", .0.message)]
    Answer(ErrorObject),
    /// The connection ended before the answer came.
    #[error("the connection is closed")]
    Closed,
    /// A message is not of the expected shape.
    #[error("malformed message")]
    Malformed(#[from] serde_json::Error),
}

/// An error as it travels.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ErrorObject {
    /// One of the specification's codes, or the application's.
    pub code: i64,
    /// For people.
    pub message: String,
    /// For programs.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub data: Value,
}

impl ErrorObject {
    /// Makes an error without data.
    pub fn new(code: i64, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), data: Value::Null }
    }
}

/// What the other side says by itself.
#[derive(Debug)]
pub enum Incoming {
    /// It wants an answer.
    Request(Request),
    /// It wants none.
    Notification(Notification),
}

/// A message that asks for no answer.
#[derive(Debug)]
pub struct Notification {
    /// Its method.
    pub method: String,
    /// Its parameters.
    pub params: Value,
}

/// A message that asks for an answer. It gets one, also if it is dropped.
#[derive(Debug)]
pub struct Request {
    /// Its method.
    pub method: String,
    /// Its parameters.
    pub params: Value,
    /// Tells when the other side does not want the answer any more.
    pub canceled: CancellationToken,
    id: Value,
    open: Open,
    outgoing: Option<mpsc::Sender<Queued>>,
    _permits: (OwnedSemaphorePermit, OwnedSemaphorePermit, Option<OwnedSemaphorePermit>),
}

/// A line that waits to be written, and the room that it takes while it does.
#[derive(Debug)]
struct Queued {
    line: String,
    _room: Option<OwnedSemaphorePermit>,
}

impl From<String> for Queued {
    fn from(line: String) -> Self {
        Self { line, _room: None }
    }
}

/// Reads a line; its method and parameters if it is a request, else nothing; the
/// code of an error if it is no message.
pub fn request(line: &[u8]) -> Result<Option<(String, Value)>, i64> {
    match reader::parse(line) {
        Ok(reader::Message::Request { method, params, .. }) => Ok(Some((method, params))),
        Ok(_) => Ok(None),
        Err((code, ..)) => Err(code),
    }
}

/// The requests of the other side that have no answer yet, by their id.
type Open = Arc<Mutex<HashMap<String, CancellationToken>>>;
type Answer = Result<Value, ErrorObject>;
type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<Answer>>>>;
/// What the other side did that ended the connection.
type Fault = Arc<OnceLock<String>>;

impl Request {
    /// Answers.
    pub async fn answer(mut self, answer: Answer) {
        let Some(outgoing) = self.outgoing.take() else { return };
        let line = answer_line(&self.id, answer);
        // Before the answer is seen: its id may be used again.
        self.close();
        let _ = outgoing.send(line.into()).await;
    }

    /// Answers that there is no such method.
    pub async fn refuse_method(self) {
        let message = format!("no method '{}'", self.method);
        self.answer(Err(ErrorObject::new(METHOD_NOT_FOUND, message))).await;
    }

    fn close(&self) {
        self.open.lock().expect("no code panics under this lock").remove(&self.id.to_string());
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if let Some(outgoing) = self.outgoing.take() {
            let error = match self.canceled.is_cancelled() {
                true => ErrorObject::new(CANCELED, "canceled"),
                false => ErrorObject::new(INTERNAL_ERROR, "the request was dropped"),
            };
            let line = answer_line(&self.id, Err(error));
            self.close();
            let _ = outgoing.try_send(line.into());
        }
    }
}

/// Writes what this side says by itself.
fn said(id: Option<u64>, method: &str, params: &impl Serialize) -> serde_json::Result<String> {
    #[derive(Serialize)]
    struct Line<'a, P> {
        jsonrpc: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<u64>,
        method: &'a str,
        params: &'a P,
    }
    serde_json::to_string(&Line { jsonrpc: "2.0", id, method, params })
}

fn answer_line(id: &Value, answer: Answer) -> String {
    #[derive(Serialize)]
    struct Line<'a> {
        jsonrpc: &'static str,
        id: &'a Value,
        #[serde(skip_serializing_if = "Option::is_none")]
        result: Option<Value>,
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<ErrorObject>,
    }
    let (result, error) = match answer {
        Ok(result) => (Some(result), None),
        Err(error) => (None, Some(error)),
    };
    serde_json::to_string(&Line { jsonrpc: "2.0", id, result, error }).expect("answers are plain data")
}

/// This side of a connection. Dropping it closes the connection.
#[derive(Debug)]
pub struct Peer {
    outgoing: mpsc::Sender<Queued>,
    /// Room for what is told without being asked for, in bytes.
    telling: Arc<Semaphore>,
    waiting: Waiting,
    next_id: AtomicU64,
    /// Nothing is said any more.
    closed: CancellationToken,
    /// The other side says nothing any more.
    deaf: CancellationToken,
    fault: Fault,
}

/// A call that has no answer yet.
#[derive(Debug)]
pub struct Pending {
    /// Its id.
    pub id: u64,
    answer: oneshot::Receiver<Answer>,
}

impl Pending {
    /// Waits for the answer; none comes if the connection ends before.
    pub async fn answer(&mut self) -> Option<Result<Value, ErrorObject>> {
        (&mut self.answer).await.ok()
    }
}

impl Peer {
    /// Starts to talk; what the other side says by itself arrives at the receiver.
    pub fn start(
        reading: impl AsyncRead + Send + Unpin + 'static,
        writing: impl AsyncWrite + Send + Unpin + 'static,
        limits: Limits,
    ) -> (Self, mpsc::Receiver<Incoming>) {
        let (outgoing, queued) = mpsc::channel(QUEUE);
        let (incoming, received) = mpsc::channel(QUEUE);
        let (waiting, closed) = (Waiting::default(), CancellationToken::new());
        let fault = Fault::default();
        let reader = Reader::new(waiting.clone(), incoming, outgoing.clone(), limits.clone(), fault.clone());
        let deaf = CancellationToken::new();
        let (ending, open, calls) = (closed.clone(), reader.open(), waiting.clone());
        let hears_nothing = deaf.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = reader.read(reading) => {}
                () = ending.cancelled() => {}
            }
            // Nobody answers what still waits; what was asked may still be answered.
            drop(reader);
            deaf.cancel();
            calls.lock().expect("no code panics under this lock").clear();
        });
        let (ending, failed, patience) = (closed.clone(), fault.clone(), limits.patience);
        tokio::spawn(async move {
            write(writing, queued, patience, &ending, &failed).await;
            ending.cancel();
            open.lock().expect("no code panics under this lock").values().for_each(CancellationToken::cancel);
        });
        let next_id = AtomicU64::new(1);
        let telling = Arc::new(Semaphore::new(TOLD));
        (Self { outgoing, telling, waiting, next_id, closed, deaf: hears_nothing, fault }, received)
    }

    /// Calls a method and waits for its result.
    pub async fn call<T: DeserializeOwned>(
        &self,
        method: &str,
        params: &impl Serialize,
    ) -> Result<T, CallError> {
        let answer = self.ask(method, params).await?.answer().await;
        let value = answer.ok_or(CallError::Closed)?.map_err(CallError::Answer)?;
        Ok(serde_json::from_value(value)?)
    }

    /// Calls a method; the result is waited for apart.
    pub async fn ask(&self, method: &str, params: &impl Serialize) -> Result<Pending, CallError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let line = said(Some(id), method, params)?;
        let (sender, answer) = oneshot::channel();
        self.waiting.lock().expect("no code panics under this lock").insert(id, sender);
        if self.deaf.is_cancelled() || self.outgoing.send(line.into()).await.is_err() {
            self.waiting.lock().expect("no code panics under this lock").remove(&id);
            return Err(CallError::Closed);
        }
        Ok(Pending { id, answer })
    }

    /// Says something that asks for no answer; waits while the other side is slow to listen.
    pub async fn notify(&self, method: &str, params: &impl Serialize) -> Result<(), CallError> {
        let line = said(None, method, params)?;
        let size = line.len().min(TOLD) as u32;
        let send = async {
            let room = self.telling.clone().acquire_many_owned(size).await.ok();
            self.outgoing.send(Queued { line, _room: room }).await
        };
        tokio::select! {
            sent = send => sent.map_err(|_| CallError::Closed),
            () = self.closed.cancelled() => Err(CallError::Closed),
        }
    }

    /// Waits until all that was said is written, or cannot be.
    pub async fn flushed(&self) {
        let all = async {
            while self.outgoing.capacity() < QUEUE {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            () = all => {}
            () = self.closed.cancelled() => {}
        }
    }

    /// Whether the other side has closed the connection.
    pub fn is_closed(&self) -> bool {
        self.deaf.is_cancelled() || self.closed.is_cancelled()
    }

    /// Returns what the other side did that ended the connection, if it broke the rules.
    pub fn fault(&self) -> Option<&str> {
        self.fault.get().map(String::as_str)
    }

    /// Waits until the other side has closed the connection.
    pub async fn closed(&self) {
        self.deaf.cancelled().await;
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.closed.cancel();
    }
}

/// Writes what is queued, until nobody can queue any more or the other side does
/// not take it.
async fn write(
    writing: impl AsyncWrite + Unpin,
    mut queued: mpsc::Receiver<Queued>,
    patience: Duration,
    closed: &CancellationToken,
    fault: &Fault,
) {
    let mut writing = BufWriter::new(writing);
    loop {
        // Its room is free again once it is written.
        let Queued { mut line, _room } = tokio::select! {
            biased;
            queued = queued.recv() => match queued {
                Some(queued) => queued,
                None => return,
            },
            () = closed.cancelled() => return,
        };
        line.push('\n');
        let is_last = queued.is_empty();
        let work = async {
            writing.write_all(line.as_bytes()).await?;
            if is_last { writing.flush().await } else { Ok(()) }
        };
        match tokio::time::timeout(patience, work).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return tracing::debug!(%error, "cannot write to the peer"),
            Err(_) => {
                let _ = fault.set(format!("did not read for {} s", patience.as_secs_f64()));
                return tracing::warn!("closing a connection that does not take its answers");
            }
        }
    }
}

#[cfg(test)]
mod tests;
