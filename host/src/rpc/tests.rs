use serde_json::json;

use super::*;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

fn limits() -> Limits {
    Limits {
        line: 1024,
        requests: 2,
        bytes: 2048,
        patience: Duration::from_millis(200),
        nonsense: 1,
        shared: None,
    }
}

fn pair() -> (Peer, mpsc::Receiver<Incoming>, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (reading, writing) = ours.into_split();
    let (peer, incoming) = Peer::start(reading, writing, limits());
    (peer, incoming, theirs)
}

async fn line(theirs: &mut BufReader<UnixStream>) -> Value {
    let mut line = String::new();
    theirs.read_line(&mut line).await.unwrap();
    serde_json::from_str(&line).unwrap_or(Value::Null)
}

/// Sends lines, and returns the codes of the errors that come back.
async fn codes(lines: &[&str]) -> Vec<i64> {
    let (_peer, _incoming, theirs) = pair();
    let mut theirs = BufReader::new(theirs);
    let mut codes = Vec::new();
    for text in lines {
        theirs.write_all(format!("{text}\n").as_bytes()).await.unwrap();
        codes.push(line(&mut theirs).await["error"]["code"].as_i64().unwrap());
    }
    codes
}

#[tokio::test]
async fn answers_find_their_calls_in_any_order() {
    let (peer, _incoming, theirs) = pair();
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
    let (peer, _incoming, theirs) = pair();
    let (result, ()) = tokio::join!(peer.call::<Value>("a", &()), async { drop(theirs) });
    assert!(matches!(result, Err(CallError::Closed)));
    peer.closed().await;
    assert!(matches!(peer.call::<Value>("b", &()).await, Err(CallError::Closed)));
}

#[tokio::test]
async fn what_is_no_request_gets_the_error_of_the_specification() {
    assert_eq!(codes(&["not json"]).await, [PARSE_ERROR]);
    assert_eq!(codes(&["[]"]).await, [INVALID_REQUEST]);
    assert_eq!(codes(&["7"]).await, [INVALID_REQUEST]);
    assert_eq!(codes(&[r#"{"id":1,"method":"a"}"#]).await, [INVALID_REQUEST]);
    assert_eq!(codes(&[r#"{"jsonrpc":"2.0","id":[1],"method":"a"}"#]).await, [INVALID_REQUEST]);
    assert_eq!(codes(&[r#"{"jsonrpc":"2.0","id":1,"method":2}"#]).await, [INVALID_REQUEST]);
    assert_eq!(codes(&[r#"{"jsonrpc":"2.0","id":1,"method":"a","params":[1]}"#]).await, [INVALID_PARAMS]);
}

#[tokio::test]
async fn too_much_nonsense_ends_the_connection() {
    let (peer, _incoming, theirs) = pair();
    let mut theirs = BufReader::new(theirs);
    theirs.write_all(b"a\nb\nc\n").await.unwrap();
    peer.closed().await;
    assert_eq!(line(&mut theirs).await["error"]["code"], PARSE_ERROR);
}

#[tokio::test]
async fn a_line_that_is_too_long_or_never_ends_closes_the_connection() {
    for text in ["x".repeat(2000), "{\"half\":".to_owned()] {
        let (peer, _incoming, theirs) = pair();
        let mut theirs = BufReader::new(theirs);
        theirs.write_all(text.as_bytes()).await.unwrap();
        peer.closed().await;
        assert_eq!(line(&mut theirs).await["error"]["code"], INVALID_REQUEST, "{}", text.len());
    }
}

#[tokio::test]
async fn who_does_not_take_answers_is_hung_up_on() {
    let (peer, _incoming, theirs) = pair();
    let flood = async {
        let text = "x".repeat(64 * 1024);
        while peer.notify("event", &text).await.is_ok() {}
    };
    tokio::time::timeout(Duration::from_secs(10), flood).await.unwrap();
    drop(theirs);
}

fn request(incoming: Option<Incoming>) -> Request {
    match incoming {
        Some(Incoming::Request(request)) => request,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn requests_are_answered_in_any_order_canceled_and_never_forgotten() {
    let (_peer, mut incoming, theirs) = pair();
    let mut theirs = BufReader::new(theirs);
    let both = b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"a\"}\n{\"jsonrpc\":\"2.0\",\"id\":\"b\",\"method\":\"b\"}\n";
    theirs.write_all(both).await.unwrap();
    let (a, b) = (request(incoming.recv().await), request(incoming.recv().await));
    b.answer(Ok(json!("first"))).await;
    assert_eq!(line(&mut theirs).await, json!({"jsonrpc": "2.0", "id": "b", "result": "first"}));

    theirs.write_all(b"{\"jsonrpc\":\"2.0\",\"method\":\"$/cancel\",\"params\":{\"id\":1}}\n").await.unwrap();
    a.canceled.cancelled().await;
    drop(a);
    assert_eq!(line(&mut theirs).await["error"]["code"], CANCELED);
}

#[tokio::test]
async fn an_id_in_use_is_refused_and_one_that_was_answered_is_free_again() {
    let (_peer, mut incoming, theirs) = pair();
    let mut theirs = BufReader::new(theirs);
    let text = b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"a\"}\n";
    theirs.write_all(&[*text, *text].concat()).await.unwrap();
    let first = request(incoming.recv().await);
    assert_eq!(line(&mut theirs).await["error"]["code"], INVALID_REQUEST);
    first.answer(Ok(Value::Null)).await;
    assert_eq!(line(&mut theirs).await["result"], Value::Null);
    theirs.write_all(text).await.unwrap();
    request(incoming.recv().await).refuse_method().await;
    assert_eq!(line(&mut theirs).await["error"]["code"], METHOD_NOT_FOUND);
}

#[tokio::test]
async fn a_flood_is_not_read_before_there_is_room() {
    let (_peer, mut incoming, mut theirs) = pair();
    for id in 0..3 {
        let text = json!({"jsonrpc": "2.0", "id": id, "method": "a"}).to_string() + "\n";
        theirs.write_all(text.as_bytes()).await.unwrap();
    }
    let (first, _second) = (request(incoming.recv().await), request(incoming.recv().await));
    let third = tokio::time::timeout(Duration::from_millis(50), incoming.recv());
    assert!(third.await.is_err(), "two at a time");
    first.answer(Ok(Value::Null)).await;
    request(incoming.recv().await);
}

#[tokio::test]
async fn a_message_of_too_many_values_closes_the_connection() {
    assert_eq!(reader::values(br#"{"a":[1,"b,[\",:"],"c":{}}"#), 7);
    let many = |count: usize| {
        format!("{{\"jsonrpc\":\"2.0\",\"method\":\"a\",\"params\":[{}0]}}\n", "0,".repeat(count))
    };
    for (count, is_served) in [(200_000, true), (250_000, false)] {
        let (stream, mut theirs) = UnixStream::pair().unwrap();
        let (reading, writing) = stream.into_split();
        let (_peer, mut incoming) = Peer::start(reading, writing, Limits { line: 1 << 20, ..limits() });
        theirs.write_all(many(count).as_bytes()).await.unwrap();
        assert_eq!(incoming.recv().await.is_some(), is_served, "{count}");
    }
}
