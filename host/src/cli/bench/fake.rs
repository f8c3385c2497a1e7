//! A worker that stands in for Blender: it speaks the same messages over the same
//! socket, in a guarded process of its own, and renders nothing.
//!
//! `hotshoe` is one when a host starts it as if it were a Blender (`--blender
//! $(command -v hotshoe)`). For measurements of the host, and for tests that kill
//! it often. `HOTSHOE_FAKE` says how it behaves: `ms=5` a frame takes so long,
//! `files=no` it leaves no files, `log=FILE` it writes a line there a frame,
//! `crash=7`, `stall=7`, `grow=7` and `fill=7` (its folder) it does so at that frame.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{SigHandler, Signal, signal};
use serde_json::{Value, json};

/// The first argument that a host gives a Blender.
pub const ARGUMENT: &str = "--background";

/// The smallest PNG: one black pixel.
const PICTURE: &[u8] = &[
    0x89, b'P', b'N', b'G', 0x0d, 0x0a, 0x1a, 0x0a, 0, 0, 0, 13, b'I', b'H', b'D', b'R', 0, 0, 0, 1, 0, 0, 0,
    1, 8, 0, 0, 0, 0, 0x3a, 0x7e, 0x9b, 0x55, 0, 0, 0, 10, b'I', b'D', b'A', b'T', 0x78, 0x9c, 0x63, 0x60, 0,
    0, 0, 2, 0, 1, 0x48, 0xaf, 0xa4, 0x71, 0, 0, 0, 0, b'I', b'E', b'N', b'D', 0xae, 0x42, 0x60, 0x82,
];

/// Is the worker, until the host closes the line. Fails where no host has started it.
pub fn run() -> std::io::Result<()> {
    let fd = std::env::var("HOTSHOE_FD").ok().and_then(|fd| fd.parse().ok());
    let fd = fd.ok_or_else(|| std::io::Error::other("only a host starts this program like that"))?;
    // SAFETY: the host handed this number down, and nobody else here uses it.
    let mut line = UnixStream::from(unsafe { OwnedFd::from_raw_fd(fd) });
    // SAFETY: nothing of this process handles the signal otherwise: it dies of a fault, as
    // Blender would, and not of the second one.
    unsafe { signal(Signal::SIGSEGV, SigHandler::SigDfl) }?;
    let behaviour = std::env::var("HOTSHOE_FAKE").unwrap_or_default();
    let behaviour: HashMap<&str, &str> =
        behaviour.split_whitespace().filter_map(|part| part.split_once('=')).collect();
    let hello = json!({"role": "worker", "protocol": 1, "blender": [4, 5, 0],
                       "blender_version": "4.5.0 (stand-in)", "pid": std::process::id()});
    send(&mut line, &json!({"jsonrpc": "2.0", "method": "hello", "params": hello}))?;
    let mut requests = BufReader::new(line.try_clone()?);
    let mut text = String::new();
    while requests.read_line(&mut text)? > 0 {
        let request: Value = serde_json::from_str(&text)?;
        let result = answer(&request, &behaviour)?;
        send(&mut line, &json!({"jsonrpc": "2.0", "id": request["id"], "result": result}))?;
        text.clear();
    }
    Ok(())
}

fn send(line: &mut UnixStream, message: &Value) -> std::io::Result<()> {
    line.write_all(format!("{message}\n").as_bytes())
}

fn answer(request: &Value, behaviour: &HashMap<&str, &str>) -> std::io::Result<Value> {
    let params = &request["params"];
    let frame = params["frame"].as_i64().unwrap_or_default();
    let leaves_files = behaviour.get("files") != Some(&"no");
    Ok(match request["method"].as_str().unwrap_or_default() {
        "scene.open" => json!({"warm": true, "overwrite": true}),
        "scene.inspect" => scene(),
        "scene.paths" if leaves_files => json!([format!("{frame:04}.png")]),
        "scene.paths" => json!([]),
        "scene.write" => {
            render(frame, Path::new(params["directory"].as_str().unwrap_or_default()), behaviour)?;
            json!({"unread": []})
        }
        "files.unreadable" | "devices.list" => json!([]),
        _ => Value::Null,
    })
}

fn render(frame: i64, folder: &Path, behaviour: &HashMap<&str, &str>) -> std::io::Result<()> {
    let at = |what: &str| behaviour.get(what).and_then(|at| at.parse().ok()) == Some(frame);
    if let Some(ms) = behaviour.get("ms").and_then(|ms| ms.parse().ok()) {
        std::thread::sleep(Duration::from_millis(ms));
    }
    if at("crash") {
        std::process::abort();
    }
    if at("stall") {
        std::thread::sleep(Duration::from_secs(3600));
    }
    if at("grow") {
        let mut hoard = Vec::new();
        loop {
            hoard.push(vec![1u8; 8 * 1024 * 1024]);
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    if at("fill") {
        for number in 0.. {
            fs::write(folder.join(number.to_string()), vec![1; 1024 * 1024])?;
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    if let Some(log) = behaviour.get("log") {
        let mut log = fs::File::options().create(true).append(true).open(log)?;
        log.write_all(format!("{frame}\n").as_bytes())?;
    }
    if behaviour.get("files") != Some(&"no") {
        fs::write(folder.join(format!("{frame:04}.png")), PICTURE)?;
    }
    Ok(())
}

fn scene() -> Value {
    json!({
        "blender_version": "4.5.0", "engine": "CYCLES", "frame_start": 1, "frame_end": 250, "frame_step": 1,
        "fps": 24.0, "width": 1, "height": 1, "samples": 1, "camera": "Camera", "cameras": ["Camera"],
        "view_layers": ["ViewLayer"], "views": [], "file_format": "PNG", "is_movie": false,
        "post_processing": false, "references": [], "blocked_scripts": [], "unbaked_simulations": [], "warnings": [],
    })
}
