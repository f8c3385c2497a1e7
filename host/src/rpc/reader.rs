//! The reading half of a peer: lines into messages, within limits.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::{
    Answer, ErrorObject, Fault, INVALID_PARAMS, INVALID_REQUEST, Incoming, Limits, Notification, Open,
    PARSE_ERROR, Queued, Request, Waiting, answer_line,
};

/// How much of a line is told that is no message, in bytes.
const SHOWN: usize = 200;
/// What is allocated for a line and kept for the next one, in bytes.
const KEPT: usize = 64 * 1024;

/// How many values a message may have: one of a few bytes may take several hundred in memory.
const VALUES: usize = 250_000;

/// Reads what the other side says.
pub(super) struct Reader {
    waiting: Waiting,
    open: Open,
    incoming: mpsc::Sender<Incoming>,
    outgoing: mpsc::Sender<Queued>,
    room: Arc<Semaphore>,
    /// Room for the text of requests, in KiB.
    bytes: Arc<Semaphore>,
    limits: Limits,
    nonsense: Mutex<u32>,
    fault: Fault,
}

/// What a line turned out to be.
#[derive(Debug, PartialEq)]
pub(super) enum Message {
    /// Asks for an answer.
    Request { id: Value, method: String, params: Value },
    /// Asks for none.
    Notification { method: String, params: Value },
    /// Is an answer.
    Answer { id: Value, answer: Result<Value, (i64, String, Value)> },
}

/// Room that a long line takes until it is answered.
type Room = Option<OwnedSemaphorePermit>;

/// Why a line is no message: the code of the error, the words, and the id, if it has one.
pub(super) type Refusal = (i64, &'static str, Value);

/// Counts the values of a text, if it is JSON: each but the first comes after one of these.
pub(super) fn values(text: &[u8]) -> usize {
    let (mut count, mut is_in_text, mut is_escaped) = (0, false, false);
    for byte in text {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = is_in_text,
            b'"' => is_in_text = !is_in_text,
            b'[' | b'{' | b',' | b':' if !is_in_text => count += 1,
            _ => {}
        }
    }
    count
}

/// Reads a line as a message.
pub(super) fn parse(line: &[u8]) -> Result<Message, Refusal> {
    let value: Value =
        serde_json::from_slice(line).map_err(|_| (PARSE_ERROR, "this is no JSON", Value::Null))?;
    let Value::Object(mut parts) = value else {
        let what = if value.is_array() { "batches are not served" } else { "a message is an object" };
        return Err((INVALID_REQUEST, what, Value::Null));
    };
    let id = parts.remove("id");
    let refused = |code, what| Err((code, what, id.clone().unwrap_or_default()));
    if parts.get("jsonrpc").and_then(Value::as_str) != Some("2.0") {
        return refused(INVALID_REQUEST, "\"jsonrpc\" is not \"2.0\"");
    }
    if id.as_ref().is_some_and(|id| !id.is_string() && !id.is_number() && !id.is_null()) {
        return Err((INVALID_REQUEST, "an id is a text or a number", Value::Null));
    }
    let method = match parts.remove("method") {
        Some(Value::String(method)) => method,
        Some(_) => return refused(INVALID_REQUEST, "\"method\" is not a text"),
        None => return answer(id, parts),
    };
    let params = parts.remove("params").unwrap_or_else(|| json!({}));
    match (&params, &id) {
        (Value::Object(_), _) => {}
        // Nobody waits to hear that it will not do.
        (Value::Array(_), None) => {}
        (Value::Array(_), _) => return refused(INVALID_PARAMS, "\"params\" is not an object"),
        _ => return refused(INVALID_REQUEST, "\"params\" is neither an object nor an array"),
    }
    match id {
        Some(Value::Null) => Err((INVALID_REQUEST, "a request needs an id that is not null", Value::Null)),
        Some(id) => Ok(Message::Request { id, method, params }),
        None => Ok(Message::Notification { method, params }),
    }
}

fn answer(id: Option<Value>, mut parts: serde_json::Map<String, Value>) -> Result<Message, Refusal> {
    let id = id.unwrap_or_default();
    if let Some(error) = parts.remove("error") {
        let error = serde_json::from_value::<ErrorObject>(error);
        let error = error.map_err(|_| (INVALID_REQUEST, "\"error\" is no error", Value::Null))?;
        return Ok(Message::Answer { id, answer: Err((error.code, error.message, error.data)) });
    }
    match parts.remove("result") {
        Some(result) => Ok(Message::Answer { id, answer: Ok(result) }),
        None => Err((INVALID_REQUEST, "neither \"method\" nor \"result\" nor \"error\"", id)),
    }
}

impl Reader {
    pub(super) fn new(
        waiting: Waiting,
        incoming: mpsc::Sender<Incoming>,
        outgoing: mpsc::Sender<Queued>,
        limits: Limits,
        fault: Fault,
    ) -> Self {
        let (room, nonsense) = (Arc::new(Semaphore::new(limits.requests)), Mutex::default());
        let bytes = Arc::new(Semaphore::new(limits.bytes >> 10));
        Self { waiting, open: Open::default(), incoming, outgoing, room, bytes, limits, nonsense, fault }
    }

    pub(super) fn open(&self) -> Open {
        self.open.clone()
    }

    /// Reads until the other side ends, or breaks the limits.
    pub(super) async fn read(&self, reading: impl AsyncRead + Unpin) {
        let mut reading = BufReader::new(reading);
        let mut line = Vec::new();
        loop {
            line.clear();
            line.shrink_to(KEPT);
            let room = match self.line(&mut reading, &mut line).await {
                Ok(Some(room)) => room,
                Ok(None) => return,
                Err(what) => {
                    tracing::warn!(what, "closing a connection");
                    let _ = self.fault.set(format!("broke the protocol: {what}"));
                    return self.refuse((INVALID_REQUEST, what, Value::Null)).await;
                }
            };
            let taken = match parse(&line) {
                Ok(message) => self.take(message, line.len(), room).await,
                Err(refusal) => {
                    let what = refusal.1;
                    self.refuse(refusal).await;
                    Err(what)
                }
            };
            let Err(what) = taken else { continue };
            let mut nonsense = self.nonsense.lock().expect("no code panics under this lock");
            *nonsense += 1;
            if *nonsense > self.limits.nonsense {
                let start = String::from_utf8_lossy(&line[..line.len().min(SHOWN)]).trim_end().to_owned();
                let _ = self.fault.set(format!("broke the protocol: {what}: {start}"));
                return tracing::warn!(what, "closing a connection that does not speak JSON-RPC");
            }
        }
    }

    /// Reads a line, and returns the room that it takes; nothing at the end, an error if it is too
    /// long or too slow.
    async fn line(
        &self,
        reading: &mut BufReader<impl AsyncRead + Unpin>,
        line: &mut Vec<u8>,
    ) -> Result<Option<Room>, &'static str> {
        // However long the other side has nothing to say.
        if reading.fill_buf().await.map_or(true, <[u8]>::is_empty) {
            return Ok(None);
        }
        let mut room = None;
        let mut deadline = Instant::now() + self.limits.patience;
        self.part(reading, line, KEPT as u64, deadline).await?;
        if line.last() != Some(&b'\n') && line.len() == KEPT {
            // Many long lines at a time wait here, in the buffers of those who send them.
            if let Some(shared) = &self.limits.shared {
                let (size, since) = ((self.limits.line >> 10).max(1) as u32, Instant::now());
                room = shared.clone().acquire_many_owned(size).await.ok();
                // Whoever sends the line cannot help that it waits.
                deadline += since.elapsed();
            }
            self.part(reading, line, (self.limits.line + 1).saturating_sub(KEPT) as u64, deadline).await?;
        }
        match line.last() {
            Some(b'\n') if line.len() > KEPT && values(line) > VALUES => Err("a message has too many values"),
            Some(b'\n') => Ok(Some(room)),
            _ if line.len() > self.limits.line => Err("a message is too long"),
            // The end came in the middle of a line.
            _ => Ok(None),
        }
    }

    /// Reads on in a line, up to so many bytes more.
    async fn part(
        &self,
        reading: &mut BufReader<impl AsyncRead + Unpin>,
        line: &mut Vec<u8>,
        most: u64,
        deadline: Instant,
    ) -> Result<(), &'static str> {
        let most = most.min(self.limits.line as u64 + 1);
        let mut limited = (&mut *reading).take(most);
        let read = timeout_at(deadline, limited.read_until(b'\n', line)).await;
        // What cannot be read is as good as ended.
        read.map(drop).map_err(|_| "a message did not end in time")
    }

    /// Takes a message; an error if nobody waits for it.
    async fn take(&self, message: Message, size: usize, room: Room) -> Result<(), &'static str> {
        match message {
            Message::Notification { method, params } if method == "$/cancel" => {
                let open = self.open.lock().expect("no code panics under this lock");
                if let Some(request) = open.get(&params["id"].to_string()) {
                    request.cancel();
                }
            }
            Message::Notification { method, params } => {
                let notification = Notification { method, params };
                // A receiver that went away does not want to know.
                let _ = self.incoming.send(Incoming::Notification(notification)).await;
            }
            Message::Request { id, method, params } => self.request(id, method, params, (size, room)).await,
            Message::Answer { id, answer } => {
                let answer = answer.map_err(|(code, message, data)| ErrorObject { code, message, data });
                return self.settle(&id, answer);
            }
        }
        Ok(())
    }

    async fn request(&self, id: Value, method: String, params: Value, (size, room): (usize, Room)) {
        // A flood waits here, in the other side's own buffers.
        let permit = self.room.clone().acquire_owned().await.expect("the room is never closed");
        let size = (size >> 10).clamp(1, self.limits.bytes >> 10) as u32;
        let bytes = self.bytes.clone().acquire_many_owned(size).await.expect("the room is never closed");
        let canceled = CancellationToken::new();
        let is_new = {
            let mut open = self.open.lock().expect("no code panics under this lock");
            let is_new = !open.contains_key(&id.to_string());
            if is_new {
                open.insert(id.to_string(), canceled.clone());
            }
            is_new
        };
        if !is_new {
            return self
                .refuse((INVALID_REQUEST, "another request with this id has no answer yet", id))
                .await;
        }
        let (open, outgoing) = (self.open.clone(), Some(self.outgoing.clone()));
        let request =
            Request { method, params, canceled, id, open, outgoing, _permits: (permit, bytes, room) };
        let _ = self.incoming.send(Incoming::Request(request)).await;
    }

    async fn refuse(&self, (code, what, id): Refusal) {
        let line = answer_line(&id, Err(ErrorObject::new(code, what)));
        let _ = self.outgoing.send(line.into()).await;
    }

    fn settle(&self, id: &Value, answer: Answer) -> Result<(), &'static str> {
        let mut waiting = self.waiting.lock().expect("no code panics under this lock");
        let caller = id.as_u64().and_then(|id| waiting.remove(&id));
        // The caller may have given up.
        caller.map(|caller| drop(caller.send(answer))).ok_or("an answer that nobody waits for")
    }
}
