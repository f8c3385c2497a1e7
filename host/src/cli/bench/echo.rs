//! The smallest component that takes a record and gives one back, and the same
//! service of a process behind a socket.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

use serde::{Deserialize, Serialize};
use wasmtime::component::{ComponentType, Lift, Lower};

/// The record that travels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ComponentType, Lift, Lower)]
#[component(record)]
pub(super) struct Shot {
    pub name: String,
    pub frame: i32,
    pub weight: f64,
}

/// Stores what it is given and returns it.
pub(super) const COMPONENT: &str = r#"
(component
  (core module $m
    (memory (export "memory") 1)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
    (func (export "echo") (param $name i32) (param $length i32) (param $frame i32) (param $weight f64)
      (result i32)
      (i32.store (i32.const 16) (local.get $name))
      (i32.store (i32.const 20) (local.get $length))
      (i32.store (i32.const 24) (i32.add (local.get $frame) (i32.const 1)))
      (f64.store (i32.const 32) (local.get $weight))
      (i32.const 16)))
  (core instance $i (instantiate $m))
  (type $record (record (field "name" string) (field "frame" s32) (field "weight" f64)))
  (export $shot "shot" (type $record))
  (func $echo (param "shot" $shot) (result $shot)
    (canon lift (core func $i "echo") (memory (core memory $i "memory")) (realloc (core func $i "realloc"))))
  (export "echo" (func $echo)))
"#;

/// Answers records with records, a line of JSON each, until the line is closed.
pub(super) fn serve(socket: UnixStream) -> std::io::Result<()> {
    let mut writer = socket.try_clone()?;
    for line in BufReader::new(socket).lines() {
        let mut shot: Shot = serde_json::from_str(&line?)?;
        shot.frame += 1;
        let mut answer = serde_json::to_vec(&shot)?;
        answer.push(b'\n');
        writer.write_all(&answer)?;
    }
    Ok(())
}

/// Asks over the socket, as [`serve`] answers.
pub(super) struct Client {
    reader: BufReader<UnixStream>,
    line: String,
}

impl Client {
    pub(super) fn new(socket: UnixStream) -> Self {
        Self { reader: BufReader::new(socket), line: String::new() }
    }

    pub(super) fn call(&mut self, shot: &Shot) -> std::io::Result<Shot> {
        let mut request = serde_json::to_vec(shot)?;
        request.push(b'\n');
        self.reader.get_mut().write_all(&request)?;
        self.line.clear();
        self.reader.read_line(&mut self.line)?;
        Ok(serde_json::from_str(&self.line)?)
    }
}
