//! The socket as a stranger uses it: hello, limits, bad messages, and a document
//! that says all of it.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use nix::libc;
use serde_json::{Value, json};

use crate::farm::{Client, Farm};
use crate::harness::{command, root};

const PARSE: i64 = -32700;
const INVALID: i64 = -32600;
const NO_METHOD: i64 = -32601;
const PARAMS: i64 = -32602;
const REFUSED: i64 = -32001;
const NOT_FOUND: i64 = -32002;
const CONFLICT: i64 = -32003;
const DENIED: i64 = -32004;

fn read_code(client: &mut Client) -> i64 {
    client.read().unwrap()["error"]["code"].as_i64().unwrap()
}

#[test]
fn nothing_is_served_before_hello_and_nobody_without_the_token() {
    let farm = Farm::start();
    let token = std::fs::read_to_string(farm.path("socket/host.token")).unwrap();
    let mut client = Client::raw(&farm.socket()).unwrap();
    assert_eq!(client.code("jobs.list", json!({})), DENIED);
    assert_eq!(client.code("hello", json!({"role": "client", "protocol": 1})), DENIED);
    assert_eq!(client.code("hello", json!({"role": "client", "protocol": 1, "token": "no"})), DENIED);
    assert_eq!(client.code("hello", json!({"role": "worker", "protocol": 1, "token": token})), DENIED);
    assert_eq!(client.code("hello", json!({"role": "client", "protocol": 9, "token": token})), DENIED);
    let welcome = client.call("hello", json!({"role": "client", "protocol": 1, "token": token}));
    assert_eq!(welcome["protocol"], 1);
    client.call("jobs.list", json!({}));
}

#[test]
fn socket_and_token_are_the_users_alone() {
    let farm = Farm::start();
    let mode = |name: &str| std::fs::metadata(farm.path(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("socket"), 0o700);
    assert_eq!(mode("socket/host.token"), 0o600);
    assert_eq!(mode("data"), 0o700);
}

#[test]
fn another_user_of_the_machine_is_not_let_in() {
    let farm = Farm::start();
    let open_to_all = |name: &str, mode| {
        std::fs::set_permissions(farm.path(name), PermissionsExt::from_mode(mode)).unwrap();
    };
    // As if somebody had opened every door but the last.
    for (name, mode) in [("", 0o755), ("socket", 0o755), ("socket/host.sock", 0o777)] {
        open_to_all(name, mode);
    }
    let socket = farm.socket();
    let stranger = std::thread::spawn(move || {
        // SAFETY: this sets the user of this one thread, which is about to end.
        let changed = unsafe { libc::syscall(libc::SYS_setresuid, -1, 65_534, -1) };
        (changed == 0).then(|| Client::raw(&socket).expect("it can reach the socket").is_closed())
    });
    match stranger.join().unwrap() {
        Some(()) => assert!(farm.log().contains("somebody else tried to connect"), "{}", farm.log()),
        None => eprintln!("skipped: only root can be somebody else"),
    }
    farm.client().call("host.status", json!({}));
}

#[test]
fn bad_messages_get_the_standard_errors_and_hurt_nobody_else() {
    let farm = Farm::start();
    let mut other = farm.client();
    let mut client = farm.client();
    for (text, code) in [
        ("this is no JSON", PARSE),
        ("{\"half\": ", PARSE),
        ("[]", INVALID),
        ("[{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"jobs.list\"}]", INVALID),
        ("\"text\"", INVALID),
        ("{\"id\":1,\"method\":\"jobs.list\"}", INVALID),
        ("{\"jsonrpc\":\"1.0\",\"id\":1,\"method\":\"jobs.list\"}", INVALID),
        ("{\"jsonrpc\":\"2.0\",\"id\":null,\"method\":\"jobs.list\"}", INVALID),
        ("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"jobs.destroy\"}", NO_METHOD),
        ("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"jobs.list\",\"params\":[1]}", PARAMS),
        ("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"jobs.list\",\"params\":1}", INVALID),
        ("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"jobs.list\",\"params\":{\"limit\":\"many\"}}", PARAMS),
        ("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"jobs.list\",\"params\":{\"limit\":0}}", PARAMS),
        ("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"jobs.list\",\"params\":{\"limti\":1}}", PARAMS),
        ("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"jobs.get\",\"params\":{\"id\":\"x\"}}", PARAMS),
    ] {
        assert!(client.send(text));
        assert_eq!(read_code(&mut client), code, "{text}");
    }
    // Nobody waits for an answer to a notification, whatever it says.
    client.send("{\"jsonrpc\":\"2.0\",\"method\":\"jobs.list\",\"params\":[1]}");
    client.call("host.status", json!({}));
    assert_eq!(client.heard, Vec::<Value>::new());
    // Enough is enough: this connection, and no other.
    for _ in 0..20 {
        client.send("nonsense");
    }
    client.is_closed();
    other.call("host.status", json!({}));
}

#[test]
fn requests_that_cannot_be_done_say_why() {
    let farm = Farm::start();
    let mut client = farm.client();
    let nobody = "01a1ff7f-d264-763e-be1d-f07806c60938";
    assert_eq!(client.code("jobs.get", json!({"id": nobody})), NOT_FOUND);
    assert_eq!(client.code("session.resume", json!({"id": "x"})), NOT_FOUND);
    for far in [1_000_000, u64::MAX] {
        assert_eq!(client.call("events.list", json!({"from": far}))["events"], json!([]));
        assert_eq!(client.code("events.subscribe", json!({"from": far})), PARAMS);
    }
    assert_eq!(client.code("events.unsubscribe", json!({"id": 7})), NOT_FOUND);
    assert_eq!(client.code("plugins.show", json!({"id": "no such renderer"})), REFUSED);
    let good = farm.job("1");
    let with = |name: &str, value: Value| {
        let mut job = good.clone();
        job[name] = value;
        job
    };
    assert_eq!(client.code("jobs.submit", with("scene", "orbit.blend".into())), REFUSED);
    assert_eq!(client.code("jobs.submit", with("scene", "/etc/passwd".into())), REFUSED);
    let pipe = farm.path("pipe.blend");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(client.code("jobs.submit", with("scene", pipe.to_str().into())), REFUSED);
    assert_eq!(client.code("jobs.submit", with("frames", "9-1".into())), REFUSED);
    assert_eq!(client.code("jobs.submit", with("renderer", "dierct".into())), REFUSED);
    assert_eq!(client.code("jobs.submit", with("settings", json!({"sampels": 4}))), REFUSED);
    assert_eq!(client.code("jobs.submit", with("out", "/proc/none".into())), REFUSED);
    assert_eq!(client.code("jobs.submit", with("after", json!([nobody]))), REFUSED);
    assert_eq!(client.code("jobs.submit", with("key", "".into())), PARAMS);
    let id = client.call("jobs.submit", good.clone())["id"].as_str().unwrap().to_owned();
    farm.wait_for(&id, "succeeded");
    for method in ["jobs.cancel", "jobs.pause", "jobs.resume", "jobs.retry"] {
        assert_eq!(client.code(method, json!({"id": id})), CONFLICT, "{method}");
    }
    assert_eq!(client.call("jobs.list", json!({}))["jobs"].as_array().unwrap().len(), 1);
}

#[test]
fn the_size_of_a_message_is_limited() {
    let mut farm = Farm::new();
    farm.config = "[clients]\nmessage_bytes = 2000\n".to_owned();
    farm.serve();
    let mut client = farm.client();
    let _ = client.writing.write_all(&vec![b'x'; 4000]);
    assert_eq!(read_code(&mut client), INVALID);
    client.is_closed();
    farm.client().call("host.status", json!({}));
}

#[test]
fn half_a_message_and_then_silence_ends_that_connection() {
    let mut farm = Farm::new();
    farm.config = "[clients]\npatience_seconds = 0.5\n".to_owned();
    farm.serve();
    let mut quiet = farm.client();
    let mut half = farm.client();
    half.writing.write_all(b"{\"jsonrpc\":").unwrap();
    let began = Instant::now();
    assert_eq!(read_code(&mut half), INVALID);
    half.is_closed();
    assert!(began.elapsed() >= Duration::from_millis(400));
    // Who has nothing to say is not disturbed.
    quiet.call("host.status", json!({}));
}

#[test]
fn a_reader_that_does_not_read_is_hung_up_on_and_delays_nobody() {
    let mut farm = Farm::new();
    farm.config = "[clients]\npatience_seconds = 0.3\n".to_owned();
    farm.serve();
    let mut deaf = farm.client();
    deaf.writing.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
    // Asks for a large document again and again, and takes none of them.
    let ask = format!("{}\n", json!({"jsonrpc": "2.0", "id": "a", "method": "rpc.discover"}));
    while deaf.writing.write_all(ask.replace("\"a\"", "1").as_bytes()).is_ok() {}
    let began = Instant::now();
    farm.client().call("host.status", json!({}));
    assert!(began.elapsed() < Duration::from_secs(1), "others are served at once");
    let mut rest = Vec::new();
    let ended = deaf.reading.get_mut().read_to_end(&mut rest);
    assert!(ended.is_ok() || ended.is_err_and(|e| e.kind() != std::io::ErrorKind::WouldBlock));
}

#[test]
fn a_flood_of_requests_is_answered_whole_and_in_bounds() {
    let farm = Farm::start();
    let mut client = farm.client();
    let mut writing = client.writing.try_clone().unwrap();
    let count = 5_000;
    let flood = std::thread::spawn(move || {
        for id in 1000..1000 + count {
            let request = json!({"jsonrpc": "2.0", "id": id, "method": "host.status"});
            writing.write_all(format!("{request}\n").as_bytes()).unwrap();
        }
    });
    let mut ids: Vec<u64> = (0..count).map(|_| client.read().unwrap()["id"].as_u64().unwrap()).collect();
    flood.join().unwrap();
    ids.sort_unstable();
    assert_eq!(ids, (1000..1000 + count).collect::<Vec<_>>());
}

#[test]
fn answers_come_in_any_order_and_a_canceled_request_is_answered() {
    let farm = Farm::start();
    let mut client = farm.client();
    // A page of plugins is loaded before it is answered; the status is there at once.
    for (id, method) in [(1001, "plugins.list"), (1002, "host.status")] {
        client.send(&json!({"jsonrpc": "2.0", "id": id, "method": method}).to_string());
    }
    client.send(&json!({"jsonrpc": "2.0", "method": "$/cancel", "params": {"id": 1001}}).to_string());
    let mut ids: Vec<u64> = (0..2).map(|_| client.read().unwrap()["id"].as_u64().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, [1001, 1002]);
    // A request that is sent before the connection is closed for writing is still done.
    let mut job = farm.job("1");
    job["key"] = "last words".into();
    client.send(&json!({"jsonrpc": "2.0", "id": 1003, "method": "jobs.submit", "params": job}).to_string());
    client.writing.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(client.read().unwrap()["id"], 1003);
    client.is_closed();
}

#[test]
fn pages_lead_to_all_there_is() {
    let farm = Farm::start();
    let mut client = farm.client();
    let mut jobs: Vec<Value> =
        (0..5).map(|_| client.call("jobs.submit", farm.job("1-7"))["id"].clone()).collect();
    jobs.reverse();
    farm.wait_for(jobs[0].as_str().unwrap(), "succeeded");
    let (mut listed, mut cursor) = (Vec::new(), Value::Null);
    loop {
        let page = client.call("jobs.list", json!({"limit": 2, "cursor": cursor}));
        listed.extend(page["jobs"].as_array().unwrap().iter().map(|job| job["id"].clone()));
        cursor = page["next"].clone();
        if cursor.is_null() {
            break;
        }
    }
    assert_eq!(listed, jobs);
    let (mut tasks, mut cursor) = (0, Value::Null);
    loop {
        let page = client.call("tasks.list", json!({"job": jobs[0], "limit": 3, "cursor": cursor}));
        tasks += page["tasks"].as_array().unwrap().len();
        cursor = page["next"].clone();
        if cursor.is_null() {
            break;
        }
    }
    assert_eq!(tasks, 7);
}

#[test]
fn a_page_fits_in_a_message_whatever_is_on_it() {
    let farm = Farm::start();
    let mut client = farm.client();
    client.call("host.drain", json!({}));
    let many: Vec<String> = (0..1600).map(|frame| (frame * 2).to_string()).collect();
    for _ in 0..1000 {
        client.call("jobs.submit", farm.job(&many.join(",")));
    }
    let (mut seen, mut pages, mut cursor) = (0, 0, Value::Null);
    loop {
        let page = client.call("jobs.list", json!({"limit": 1000, "cursor": cursor}));
        assert!(page.to_string().len() < 16 * 1024 * 1024);
        (seen, pages) = (seen + page["jobs"].as_array().unwrap().len(), pages + 1);
        cursor = page["next"].clone();
        if cursor.is_null() {
            break;
        }
    }
    assert_eq!(seen, 1000);
    assert!(pages > 1);
}

#[test]
fn connections_are_limited_and_others_get_their_turn() {
    let mut farm = Farm::new();
    farm.config = "[clients]\nconnections = 2\n".to_owned();
    farm.serve();
    let (first, _second) = (farm.client(), farm.client());
    let mut third = Client::raw(&farm.socket()).unwrap();
    third.writing.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let token = std::fs::read_to_string(farm.path("socket/host.token")).unwrap();
    let hello = json!({"role": "client", "protocol": 1, "token": token});
    assert!(third.try_call("hello", hello).is_none(), "it waits");
    drop(first);
    third.writing.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    assert_eq!(third.read().unwrap()["result"]["protocol"], 1);
}

#[test]
fn the_document_says_what_is_served() {
    let farm = Farm::start();
    let mut client = farm.client();
    let document = client.call("rpc.discover", json!({}));
    assert_eq!(document["openrpc"], "1.3.2");
    for method in document["methods"].as_array().unwrap() {
        let name = method["name"].as_str().unwrap();
        assert!(method["summary"].as_str().is_some_and(|text| !text.is_empty()), "{name}");
        if name == "host.shutdown" || name == "hello" {
            continue;
        }
        // It is served: parameters that fit no method are refused, not the method.
        assert_eq!(client.code(name, json!({"no such parameter": 1})), PARAMS, "{name}");
    }
    let text = std::fs::read_to_string(root().join("docs/protocol.md")).unwrap();
    for method in document["methods"].as_array().unwrap() {
        let name = method["name"].as_str().unwrap();
        assert!(text.contains(&format!("`{name}`")), "docs/protocol.md does not mention {name}");
    }
}

#[test]
fn the_session_in_the_documentation_works_as_it_stands() {
    let farm = Farm::start();
    let text = std::fs::read_to_string(root().join("docs/protocol.md")).unwrap();
    let session =
        text.split("```json-session\n").nth(1).expect("there is a session").split("```").next().unwrap();
    let scene = farm.job("1")["scene"].as_str().unwrap().to_owned();
    let token = std::fs::read_to_string(farm.path("socket/host.token")).unwrap();
    let mut client = Client::raw(&farm.socket()).unwrap();
    let mut asked = 0;
    for line in session.lines().filter_map(|line| line.strip_prefix("--> ")) {
        let line = line.replace("TOKEN", &token).replace("/scenes/orbit.blend", &scene);
        let line = line.replace("/renders/orbit", farm.path("out").to_str().unwrap());
        let request: Value = serde_json::from_str(&line).unwrap();
        client.send(&line);
        let answer = loop {
            let message = client.read().unwrap();
            if message["id"] == request["id"] {
                break message;
            }
        };
        assert!(answer.get("result").is_some(), "{line}: {answer}");
        asked += 1;
    }
    assert!(asked >= 4);
}

#[test]
fn what_runs_in_a_worker_cannot_become_a_client() {
    let farm = Farm::start();
    let script = farm.path("intruder.py");
    let text = format!(
        "import ctypes, os, socket, sys\n\
         def tries(name, attempt):\n\
        \x20   try:\n\
        \x20       attempt()\n\
        \x20       print(name, 'IS IN')\n\
        \x20   except OSError as error:\n\
        \x20       print(name, error.errno)\n\
         path = {:?}\n\
         tries('socket', lambda: socket.socket(socket.AF_UNIX).connect(path))\n\
         tries('network', lambda: socket.socket(socket.AF_INET).connect(('127.0.0.1', 9)))\n\
         libc = ctypes.CDLL(None, use_errno=True)\n\
         def call(*arguments):\n\
        \x20   if libc.syscall(*arguments) < 0:\n\
        \x20       raise OSError(ctypes.get_errno(), 'refused')\n\
         tries('io_uring', lambda: call(425, 1, 0))\n\
         tries('ptrace', lambda: call(101, 16, {}, 0, 0))\n\
         tries('memory', lambda: call(310, {}, 0, 0, 0, 0, 0))\n\
         tries('child', lambda: os._exit(os.system(sys.executable + ' -c \"import socket; socket.socket(socket.AF_UNIX).connect(' + repr(path) + ')\" 2>/dev/null') and 7))\n",
        farm.socket().to_str().unwrap(),
        farm.pid(),
        farm.pid(),
    );
    std::fs::write(&script, text).unwrap();
    let python = crate::harness::installed().path;
    // What is refused to every process of a host, also where nothing else is.
    let mut guard = command(crate::harness::PROGRAM);
    guard.args(["guard", "\"bare\""]).arg(python).arg("-u").arg(&script);
    let child =
        guard.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut child = child;
    let _life_line = child.stdin.take();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text, "socket 1\nnetwork 1\nio_uring 1\nptrace 1\nmemory 1\n", "all are refused with EPERM");
    assert_eq!(output.status.code(), Some(7), "nor can what it starts");
}

#[test]
fn the_corpus_of_the_fuzzer_is_understood_as_it_is_meant() {
    let folder = root().join("fuzz/corpus/message");
    let understood = |name: &str| hotshoe::api::understand(&std::fs::read(folder.join(name)).unwrap());
    for name in [
        "hello",
        "submit",
        "submit-texts",
        "get",
        "list",
        "tasks",
        "subscribe",
        "resume",
        "cancel",
        "answer",
        "error",
    ] {
        assert_eq!(understood(name), None, "{name}");
    }
    assert_eq!(understood("batch"), Some(INVALID));
    for name in ["deep", "cut", "not-utf8"] {
        assert_eq!(understood(name), Some(PARSE), "{name}");
    }
}

#[test]
fn a_component_cannot_become_a_client_nor_see_anything_of_the_host() {
    let farm = Farm::start();
    let mut job = farm.job("1");
    job["renderer"] = json!(crate::harness::probe());
    job["settings"] = json!({"act": "intrude"});
    let job = farm.client().call("jobs.submit", job)["id"].as_str().unwrap().to_owned();
    farm.wait_for(&job, "succeeded");
}
