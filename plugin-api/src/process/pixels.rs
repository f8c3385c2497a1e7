//! Pixels: memory that this process and its host share.

use std::collections::HashMap;
use std::fs::File;
use std::io::IoSliceMut;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::process::exit;
use std::sync::MutexGuard;

use memmap2::MmapMut;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{ATTEMPT, CONNECTION, Connection, ask, attempt, connection, tell};
use crate::sys::hotshoe::plugin::types::Error;

/// Shared memory that holds pixels.
#[derive(Debug)]
pub(super) struct Buffer {
    number: u32,
    memory: MmapMut,
}

impl Buffer {
    fn floats(&self) -> &[f32] {
        bytemuck::cast_slice(&self.memory)
    }

    fn floats_mut(&mut self) -> &mut [f32] {
        bytemuck::cast_slice_mut(&mut self.memory)
    }

    fn place(&self) -> usize {
        self.memory.as_ptr().addr()
    }
}

/// Calls a function of the contract that gives pixels.
pub fn ask_for_pixels(method: &str, mut params: Value) -> Result<Floats, Error> {
    #[derive(Deserialize)]
    struct Sent {
        buffer: u32,
        length: usize,
    }
    let (connection, attempt) = (connection(), attempt());
    let free = connection.free(attempt);
    params["into"] = json!(free.as_ref().map(|buffer| buffer.number));
    let answer = ask(method, params);
    let Sent { buffer, length } = match answer {
        Ok(sent) => sent,
        Err(error) => {
            if let Some(free) = free {
                connection.keep(attempt, free);
            }
            return Err(error);
        }
    };
    let buffer = match free {
        Some(free) if free.number == buffer => free,
        free => {
            // It was too small.
            discard(free);
            connection.take(buffer)
        }
    };
    Ok(Floats { attempt, buffer: Some(buffer), length })
}

/// Puts pixels where the host can read them; what was read from it is there already.
pub fn pixels(pixels: &[f32]) -> Result<Value, Error> {
    let (connection, attempt) = (connection(), attempt());
    let length = pixels.len();
    if let Some(number) = connection.lent().get(&pixels.as_ptr().addr()) {
        return Ok(json!({"buffer": number, "length": length}));
    }
    let mut buffer = match connection.free(attempt) {
        Some(buffer) if buffer.floats().len() >= length => buffer,
        smaller => {
            discard(smaller);
            let number = ask("buffer.create", json!({"length": length.max(1)}))?;
            connection.take(number)
        }
    };
    buffer.floats_mut()[..length].copy_from_slice(pixels);
    let sent = json!({"buffer": buffer.number, "length": length});
    // The call is made before anything else can take it.
    connection.keep(attempt, buffer);
    Ok(sent)
}

fn discard(buffer: Option<Buffer>) {
    if let Some(buffer) = buffer {
        connection().lent().remove(&buffer.place());
        tell::<()>("buffer.drop", json!({"buffer": buffer.number}));
    }
}

/// Floats in memory that the host has, too.
#[derive(Debug)]
pub struct Floats {
    attempt: u64,
    buffer: Option<Buffer>,
    length: usize,
}

impl Deref for Floats {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.buffer.as_ref().expect("it is there until the drop").floats()[..self.length]
    }
}

impl DerefMut for Floats {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.buffer.as_mut().expect("it is there until the drop").floats_mut()[..self.length]
    }
}

impl Drop for Floats {
    fn drop(&mut self) {
        if let (Some(buffer), Some(connection)) = (self.buffer.take(), CONNECTION.get()) {
            connection.keep(self.attempt, buffer);
        }
    }
}

impl Connection {
    /// Takes the buffer of a number, waiting until it has come.
    pub(super) fn take(&self, number: u32) -> Buffer {
        let mut received = self.received.lock().expect("no code panics under this lock");
        let file = loop {
            if let Some(file) = received.remove(&number) {
                break file;
            }
            let Some((number, file)) = receive(&self.pixels) else { exit(0) };
            received.insert(number, file);
        };
        // SAFETY: the host has sealed its size, and reads and writes it only during calls
        // that name it.
        let memory = unsafe { MmapMut::map_mut(&file) }.expect("what the host sends can be mapped");
        let buffer = Buffer { number, memory };
        self.lent().insert(buffer.place(), number);
        buffer
    }

    /// Takes a buffer of an attempt that is not in use.
    pub(super) fn free(&self, attempt: u64) -> Option<Buffer> {
        let mut free = self.free.lock().expect("no code panics under this lock");
        let buffer = free.get_mut(&attempt)?.pop()?;
        self.lent().insert(buffer.place(), buffer.number);
        Some(buffer)
    }

    /// Takes back a buffer that is not in use any more.
    pub(super) fn keep(&self, attempt: u64, buffer: Buffer) {
        self.lent().remove(&buffer.place());
        if ATTEMPT.get() == Some(attempt) {
            let mut free = self.free.lock().expect("no code panics under this lock");
            free.entry(attempt).or_default().push(buffer);
        }
    }

    pub(super) fn lent(&self) -> MutexGuard<'_, HashMap<usize, u32>> {
        self.lent.lock().expect("no code panics under this lock")
    }
}

/// Receives a buffer with its number; none if the host is gone.
fn receive(socket: &OwnedFd) -> Option<(u32, File)> {
    let (mut text, mut room) = ([0u8; 32], nix::cmsg_space!([RawFd; 1]));
    let mut parts = [IoSliceMut::new(&mut text)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut room), flags).ok()?;
    let count = message.bytes;
    let rights = message.cmsgs().ok()?.find_map(|message| match message {
        ControlMessageOwned::ScmRights(rights) => rights.first().copied(),
        _ => None,
    })?;
    // SAFETY: the kernel has just made it for this process.
    let file = unsafe { File::from_raw_fd(rights) };
    let number = std::str::from_utf8(&text[..count]).ok()?.parse().ok()?;
    Some((number, file))
}
