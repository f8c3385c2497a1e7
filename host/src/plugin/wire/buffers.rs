//! Pixels between the host and a process: shared memory, never JSON.
//!
//! The host makes each buffer and seals it against shrinking and growing, so that no
//! access of either side ends in SIGBUS. Its descriptor goes over a socket that is
//! there for nothing else, with its number. The host itself reads and writes a buffer
//! by calls of the kernel and maps nothing that a plugin can write.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair};
use serde_json::Value;

use super::{Misfit, Names, Refusal, Reply, unknown};
use crate::capability::image::{Budget, MAX_AREA};
use crate::capability::{CapabilityError, Code};

/// How many floats a buffer holds at most: as many as a call reads.
const MAX_FLOATS: u64 = MAX_AREA * 4;
/// From how many bytes on copying is kept off the threads that serve others.
const LARGE: usize = 256 * 1024;

/// Shared memory that holds pixels.
#[derive(Debug)]
pub struct Buffer {
    file: File,
    length: u32,
    _budget: Option<Budget>,
}

/// The socket over which descriptors go.
#[derive(Debug)]
pub struct PixelLine(OwnedFd);

impl PixelLine {
    /// Makes the host's end and the plugin's.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        )?;
        // The plugin waits for what it was promised.
        fcntl(&theirs, FcntlArg::F_SETFL(nix::fcntl::OFlag::empty()))?;
        Ok((Self(ours), theirs))
    }

    /// Sends a descriptor with its number as text.
    fn send(&self, number: u32, file: &File) -> Result<(), Misfit> {
        let text = number.to_string();
        let descriptors = [file.as_raw_fd()];
        let sent = sendmsg::<()>(
            self.0.as_raw_fd(),
            &[IoSlice::new(text.as_bytes())],
            &[ControlMessage::ScmRights(&descriptors)],
            MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT,
            None,
        );
        match sent {
            Ok(_) => Ok(()),
            Err(Errno::EAGAIN) => Err(Misfit::new("the buffers that were sent before were not taken yet")),
            Err(error) => Err(Misfit::new(format!("a buffer cannot be sent: {error}"))),
        }
    }
}

impl Buffer {
    fn create(length: u32) -> io::Result<Self> {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let file = File::from(memfd_create("hotshoe-pixels", flags)?);
        file.set_len(u64::from(length) * 4)?;
        let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
        Ok(Self { file, length, _budget: None })
    }
}

impl Names {
    /// Makes a buffer for the process.
    pub(super) fn make_buffer(&mut self, length: u32) -> Reply {
        let limit = |message| Refusal::from(CapabilityError::new(Code::Limit, message));
        if length == 0 || u64::from(length) > MAX_FLOATS {
            return Err(limit(format!("a buffer holds 1 to {MAX_FLOATS} floats, not {length}")));
        }
        if self.buffers.len() >= self.most {
            return Err(limit(format!("an attempt keeps at most {} buffers", self.most)));
        }
        let budget = self.attempt.as_ref().map(|attempt| Budget::take_bytes(attempt, u64::from(length) * 4));
        let made = Buffer::create(length).map_err(CapabilityError::io("make a buffer"))?;
        let buffer = Buffer { _budget: budget.transpose()?, ..made };
        let number = self.number();
        self.pixels.send(number, &buffer.file)?;
        self.buffers.insert(number, buffer);
        Ok(Value::from(number))
    }

    /// Reads the first floats of a buffer.
    pub(super) fn pixels_of(&mut self, number: u32, length: u32) -> Result<Vec<f32>, Misfit> {
        let buffer = self.buffers.get(&number).ok_or_else(|| unknown("buffer", number).below("buffer"))?;
        fits(buffer, length)?;
        let mut pixels = vec![0.0f32; length as usize];
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut pixels);
        aside(bytes.len(), || buffer.file.read_exact_at(bytes, 0)).map_err(failed)?;
        Ok(pixels)
    }

    /// Writes pixels into the buffer that was asked for, else into a new one that is
    /// the process's alone.
    pub(super) fn pixels_into(&mut self, pixels: Vec<f32>) -> Result<Value, Misfit> {
        let bytes: &[u8] = bytemuck::cast_slice(&pixels);
        let length = pixels.len() as u32;
        if let Some(number) = self.into.take() {
            let buffer = self.buffers.get(&number).ok_or_else(|| unknown("buffer", number).below("into"))?;
            fits(buffer, length).map_err(|misfit| misfit.below("into"))?;
            aside(bytes.len(), || buffer.file.write_all_at(bytes, 0)).map_err(failed)?;
            return Ok(number.into());
        }
        let number = self.number();
        let buffer = Buffer::create(length).map_err(failed)?;
        aside(bytes.len(), || buffer.file.write_all_at(bytes, 0)).map_err(failed)?;
        self.pixels.send(number, &buffer.file)?;
        Ok(number.into())
    }
}

fn fits(buffer: &Buffer, length: u32) -> Result<(), Misfit> {
    let has = buffer.length;
    let fits = (length <= has).then_some(());
    fits.ok_or_else(|| Misfit::new(format!("the buffer holds {has} floats, not {length}")).below("length"))
}

fn failed(error: io::Error) -> Misfit {
    Misfit::new(format!("the buffer cannot be used: {error}"))
}

/// Copies much where it holds up nobody.
fn aside<T>(bytes: usize, copy: impl FnOnce() -> T) -> T {
    if bytes >= LARGE { tokio::task::block_in_place(copy) } else { copy() }
}
