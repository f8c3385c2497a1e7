//! A JSON-RPC 2.0 peer: one message a line over a Unix socket.
//!
//! Owns the framing, the ids and the calls that wait for an answer. Knows no
//! method and no error code beyond those of the JSON-RPC specification.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio_util::codec::{FramedRead, LinesCodec};
use tokio_util::sync::CancellationToken;

/// The longest line that is read, in bytes.
pub const MAX_LINE: usize = 16 * 1024 * 1024;
const METHOD_NOT_FOUND: i64 = -32601;
/// How many messages may wait to be written or read before the sender waits.
const QUEUE: usize = 256;

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
#[derive(Debug, Clone, Deserialize)]
pub struct ErrorObject {
    /// One of the specification's codes, or the application's.
    pub code: i64,
    /// For people.
    pub message: String,
    /// For programs.
    #[serde(default)]
    pub data: Value,
}

/// A message that asks for no answer.
#[derive(Debug)]
pub struct Notification {
    /// Its method.
    pub method: String,
    /// Its parameters.
    pub params: Value,
}

#[derive(Deserialize)]
struct Message {
    id: Option<Value>,
    method: Option<String>,
    #[serde(default)]
    params: Value,
    #[serde(default)]
    result: Value,
    error: Option<ErrorObject>,
}

type Answer = Result<Value, ErrorObject>;
type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<Answer>>>>;

/// This side of a connection. Dropping it closes the connection.
#[derive(Debug)]
pub struct Peer {
    outgoing: mpsc::Sender<String>,
    waiting: Waiting,
    next_id: AtomicU64,
    closed: CancellationToken,
}

impl Peer {
    /// Starts to talk; what the other side says by itself arrives at the receiver.
    pub fn start(stream: UnixStream) -> (Self, mpsc::Receiver<Notification>) {
        let (reading, writing) = stream.into_split();
        let (outgoing, queued) = mpsc::channel(QUEUE);
        let (incoming, notifications) = mpsc::channel(QUEUE);
        let waiting = Waiting::default();
        let closed = CancellationToken::new();
        tokio::spawn(write(writing, queued));
        let reader = Reader { waiting: waiting.clone(), incoming, outgoing: outgoing.clone() };
        let closing = closed.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = reader.read(reading) => closing.cancel(),
                () = closing.cancelled() => {}
            }
            // Nobody will answer the calls that still wait.
            reader.waiting.lock().expect("no code panics under this lock").clear();
        });
        (Self { outgoing, waiting, next_id: AtomicU64::new(1), closed }, notifications)
    }

    /// Calls a method and waits for its result.
    pub async fn call<T: DeserializeOwned>(
        &self,
        method: &str,
        params: &impl Serialize,
    ) -> Result<T, CallError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let line = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).to_string();
        let (sender, answer) = oneshot::channel();
        self.waiting.lock().expect("no code panics under this lock").insert(id, sender);
        if self.closed.is_cancelled() || self.outgoing.send(line).await.is_err() {
            self.waiting.lock().expect("no code panics under this lock").remove(&id);
            return Err(CallError::Closed);
        }
        match answer.await {
            Ok(Ok(value)) => Ok(serde_json::from_value(value)?),
            Ok(Err(error)) => Err(CallError::Answer(error)),
            Err(_) => Err(CallError::Closed),
        }
    }

    /// Whether the other side has closed the connection.
    pub fn is_closed(&self) -> bool {
        self.closed.is_cancelled()
    }

    /// Waits until the other side has closed the connection.
    pub async fn closed(&self) {
        self.closed.cancelled().await;
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.closed.cancel();
    }
}

async fn write(mut socket: OwnedWriteHalf, mut queued: mpsc::Receiver<String>) {
    while let Some(mut line) = queued.recv().await {
        line.push('\n');
        if let Err(error) = socket.write_all(line.as_bytes()).await {
            tracing::debug!(%error, "cannot write to the peer");
            return;
        }
    }
}

struct Reader {
    waiting: Waiting,
    incoming: mpsc::Sender<Notification>,
    outgoing: mpsc::Sender<String>,
}

impl Reader {
    async fn read(&self, socket: OwnedReadHalf) {
        use tokio_stream::StreamExt;
        let mut lines = FramedRead::new(socket, LinesCodec::new_with_max_length(MAX_LINE));
        while let Some(line) = lines.next().await {
            let message = match line {
                Ok(line) => serde_json::from_str(&line),
                Err(error) => {
                    tracing::warn!(%error, "closing a connection that cannot be read");
                    return;
                }
            };
            match message {
                Ok(message) => self.take(message).await,
                Err(error) => {
                    tracing::warn!(%error, "closing a connection that does not speak JSON-RPC");
                    return;
                }
            }
        }
    }

    async fn take(&self, message: Message) {
        match (message.method, message.id) {
            (Some(method), None) => {
                let notification = Notification { method, params: message.params };
                // A receiver that went away does not want to know.
                let _ = self.incoming.send(notification).await;
            }
            (Some(method), Some(id)) => {
                let error = json!({"code": METHOD_NOT_FOUND, "message": format!("no method {method}")});
                let line = json!({"jsonrpc": "2.0", "id": id, "error": error}).to_string();
                let _ = self.outgoing.send(line).await;
            }
            (None, id) => self.settle(id, message.error.map_or(Ok(message.result), Err)),
        }
    }

    fn settle(&self, id: Option<Value>, answer: Answer) {
        let id = id.as_ref().and_then(Value::as_u64);
        let mut waiting = self.waiting.lock().expect("no code panics under this lock");
        match id.and_then(|id| waiting.remove(&id)) {
            // The caller may have given up.
            Some(caller) => drop(caller.send(answer)),
            None => tracing::debug!(?id, "an answer that nobody waits for"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncBufReadExt, BufReader};

    fn pair() -> (Peer, mpsc::Receiver<Notification>, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (peer, notifications) = Peer::start(ours);
        (peer, notifications, theirs)
    }

    #[tokio::test]
    async fn answers_find_their_calls_in_any_order() {
        let (peer, _notifications, theirs) = pair();
        let other = async {
            let (reading, mut writing) = theirs.into_split();
            let mut lines = BufReader::new(reading).lines();
            let mut ids = Vec::new();
            for _ in 0..2 {
                let line = lines.next_line().await.unwrap().unwrap();
                let message: Value = serde_json::from_str(&line).unwrap();
                ids.push((message["id"].clone(), message["params"].clone()));
            }
            for (id, params) in ids.into_iter().rev() {
                let line = json!({"jsonrpc": "2.0", "id": id, "result": params}).to_string() + "\n";
                writing.write_all(line.as_bytes()).await.unwrap();
            }
            // The connection stays up until both calls have their answers.
            lines.next_line().await.unwrap()
        };
        let calls = async {
            let (a, b) = tokio::join!(peer.call::<i32>("a", &1), peer.call::<i32>("b", &2));
            assert_eq!((a.unwrap(), b.unwrap()), (1, 2));
            drop(peer);
        };
        tokio::join!(other, calls);
    }

    #[tokio::test]
    async fn a_call_on_a_dead_line_fails() {
        let (peer, _notifications, theirs) = pair();
        let (result, ()) = tokio::join!(peer.call::<Value>("a", &()), async { drop(theirs) });
        assert!(matches!(result, Err(CallError::Closed)));
        peer.closed().await;
        assert!(matches!(peer.call::<Value>("b", &()).await, Err(CallError::Closed)));
    }

    #[tokio::test]
    async fn garbage_and_endless_lines_close_the_connection() {
        for garbage in [b"not json\n".to_vec(), vec![b'x'; MAX_LINE + 2]] {
            let (peer, _notifications, mut theirs) = pair();
            // The peer may hang up while we still write.
            let _ = theirs.write_all(&garbage).await;
            peer.closed().await;
        }
    }

    #[tokio::test]
    async fn a_request_for_an_unknown_method_is_refused() {
        let (_peer, _notifications, mut theirs) = pair();
        theirs.write_all(b"{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"x\"}\n").await.unwrap();
        let mut line = String::new();
        BufReader::new(theirs).read_line(&mut line).await.unwrap();
        let answer: Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!(7), &json!(METHOD_NOT_FOUND)));
    }
}
