//! Pixels between the host and a process: shared memory, never JSON.
//!
//! The host makes each buffer and seals it against shrinking and growing, so that no
//! access of either side ends in SIGBUS. Its descriptor goes over a socket that is
//! there for nothing else, with its number. The plugin can write a buffer at any time:
//! the host copies from it and into it, once, and never holds a reference to what is
//! in it.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;

use memmap2::MmapRaw;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MmapAdvise, madvise};
use nix::sys::socket::{AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair};
use serde_json::{Value, json};
use wasmtime::component::Resource;

use super::{Arguments, Held, Misfit, Names, Refusal, Reply, Wire, unknown};
use crate::blender::wire::Region;
use crate::capability::image::{Budget, Image, MAX_AREA};
use crate::capability::{self, Attempt, CapabilityError, Code};
use crate::plugin::bindings::v0_1::types;
use crate::terms::Capability;

/// How many floats a buffer holds at most: as many as a call reads.
const MAX_FLOATS: u64 = MAX_AREA * 4;
/// From how many bytes on copying is kept off the threads that serve others: what takes
/// about a millisecond. To copy less costs less than another thread.
const LARGE: usize = 16 * 1024 * 1024;

/// Shared memory that holds pixels.
#[derive(Debug)]
pub struct Buffer {
    memory: MmapRaw,
    length: u32,
    _budget: Budget,
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
    fn send(&self, number: u32, file: &File) -> capability::Result<()> {
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
            Err(Errno::EAGAIN) => {
                let message = "the buffers that were sent before were not taken yet";
                Err(CapabilityError::new(Code::Limit, message))
            }
            Err(error) => Err(CapabilityError::io("send a buffer")(error.into())),
        }
    }
}

impl Buffer {
    fn create(length: u32, budget: Budget) -> io::Result<(Self, File)> {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let file = File::from(memfd_create("hotshoe-pixels", flags)?);
        // All of it is there from now on: to touch it cannot fail.
        fallocate(&file, FallocateFlags::empty(), 0, i64::from(length) * 4)?;
        let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
        Ok((Self { memory: MmapRaw::map_raw(&file)?, length, _budget: budget }, file))
    }

    /// Copies floats into it, from the one at `at` on.
    fn put(&self, at: usize, floats: &[f32]) {
        assert!(at + floats.len() <= self.length as usize, "nothing is copied beyond a buffer");
        // SAFETY: both are that long, and no reference to the shared one is made.
        unsafe { self.floats().add(at).copy_from_nonoverlapping(floats.as_ptr(), floats.len()) };
    }

    /// Copies floats out of it, from the one at `at` on.
    fn get(&self, at: usize, floats: &mut [f32]) {
        assert!(at + floats.len() <= self.length as usize, "nothing is copied from beyond a buffer");
        // SAFETY: both are that long, and no reference to the shared one is made. Whatever
        // the plugin writes meanwhile, every pattern of bits is a float.
        unsafe { self.floats().add(at).copy_to_nonoverlapping(floats.as_mut_ptr(), floats.len()) };
    }

    fn floats(&self) -> *mut f32 {
        self.memory.as_mut_ptr().cast()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // The plugin may keep the descriptor for as long as it likes; what is in it goes.
        let start = NonNull::new(self.memory.as_mut_ptr().cast());
        let length = self.length as usize * size_of::<f32>();
        // SAFETY: the mapping is that long and still there.
        let _ = start.map(|start| unsafe { madvise(start, length, MmapAdvise::MADV_REMOVE) });
    }
}

impl Names {
    /// Makes a buffer for the process.
    pub(super) fn make_buffer(&mut self, length: u32, attempt: &Attempt) -> Result<u32, Refusal> {
        let limit = |message| Refusal::from(CapabilityError::new(Code::Limit, message));
        if length == 0 || u64::from(length) > MAX_FLOATS {
            return Err(limit(format!("a buffer holds 1 to {MAX_FLOATS} floats, not {length}")));
        }
        if self.buffers.len() >= self.most {
            return Err(limit(format!("an attempt keeps at most {} buffers", self.most)));
        }
        let budget = Budget::take_bytes(attempt, u64::from(length) * 4)?;
        let (buffer, file) = Buffer::create(length, budget).map_err(CapabilityError::io("make a buffer"))?;
        let number = self.number();
        self.pixels.send(number, &file)?;
        self.buffers.insert(number, buffer);
        Ok(number)
    }

    /// Finds the buffer that an answer is wanted in, or makes one if it has no room.
    fn room(&mut self, into: Option<u32>, length: u32, attempt: &Attempt) -> Result<u32, Refusal> {
        if let Some(number) = into {
            let buffer = self.buffers.get(&number).ok_or_else(|| unknown("buffer", number).below("into"))?;
            if buffer.length >= length {
                return Ok(number);
            }
        }
        self.make_buffer(length, attempt)
    }
}

impl Held {
    /// `image.read`: the pixels go from the image to the buffer and nowhere else.
    pub(super) fn image_read(&mut self, mut arguments: Arguments) -> Reply {
        let (attempt, image, region) = self.image_and_region("image.read", &mut arguments)?;
        let into = self.take(&mut arguments, "into")?;
        arguments.end()?;
        let length = image.floats(region)?;
        attempt.used.moves(length).map_err(CapabilityError::from)?;
        let number = self.names.room(into, length as u32, &attempt)?;
        let buffer = &self.names.buffers[&number];
        let mut at = 0;
        let copy = || {
            image.read_parts(region, |part| {
                buffer.put(at, part);
                at += part.len();
            })
        };
        aside(length * size_of::<f32>(), copy)?;
        Ok(json!({"buffer": number, "length": length}))
    }

    /// `image.write`: the pixels go from the buffer to the image and nowhere else.
    pub(super) fn image_write(&mut self, mut arguments: Arguments) -> Reply {
        let (attempt, image, region) = self.image_and_region("image.write", &mut arguments)?;
        let Pixels { buffer, length } = self.take(&mut arguments, "pixels")?;
        arguments.end()?;
        attempt.used.moves(length as usize).map_err(CapabilityError::from)?;
        let buffer =
            self.names.buffers.get(&buffer).ok_or_else(|| unknown("buffer", buffer).below("pixels"))?;
        fits(buffer, length)?;
        let mut at = 0;
        let copy = || {
            image.write_parts(region, length as usize, |part| {
                buffer.get(at, part);
                at += part.len();
            })
        };
        aside(length as usize * size_of::<f32>(), copy)?;
        Ok(Value::Null)
    }

    fn image_and_region(
        &mut self,
        name: &'static str,
        arguments: &mut Arguments,
    ) -> Result<(Arc<Attempt>, Image, Region), Refusal> {
        self.handles.called(name).map_err(Refusal::Hit)?;
        let image: Resource<Image> = self.take(arguments, "image")?;
        let region: types::Region = self.take(arguments, "region")?;
        let attempt = self.handles.attempt(Capability::Image)?;
        let image = self.handles.table.get(&image).map_err(|error| Refusal::Host(error.to_string()))?;
        Ok((attempt, image.clone(), region.into()))
    }
}

/// The first floats of a buffer, as a message names them.
struct Pixels {
    buffer: u32,
    length: u32,
}

impl Wire for Pixels {
    fn read(value: Value, _: &mut Names) -> Result<Self, Misfit> {
        let fields = value.as_object().filter(|fields| fields.len() == 2);
        let field = |name| fields.and_then(|fields| u32::try_from(fields.get(name)?.as_u64()?).ok());
        match (field("buffer"), field("length")) {
            (Some(buffer), Some(length)) => Ok(Self { buffer, length }),
            _ => Err(Misfit::new("pixels are wanted: {\"buffer\": NUMBER, \"length\": FLOATS}")),
        }
    }

    fn write(self, _: &mut Names) -> Result<Value, Misfit> {
        Ok(json!({"buffer": self.buffer, "length": self.length}))
    }
}

fn fits(buffer: &Buffer, length: u32) -> Result<(), Misfit> {
    let has = buffer.length;
    let fits = (length <= has).then_some(());
    fits.ok_or_else(|| Misfit::new(format!("the buffer holds {has} floats, not {length}")).below("length"))
}

/// Copies much where it holds up nobody.
fn aside<T>(bytes: usize, copy: impl FnOnce() -> T) -> T {
    if bytes >= LARGE { tokio::task::block_in_place(copy) } else { copy() }
}
