//! The socket: who may connect, and what goes over it.
//!
//! Owns the listening socket, its token and the connections. Translates messages
//! to operations of `service` and back, and does nothing else.

mod connection;
mod wire;

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use interprocess::local_socket::tokio::Listener;
use interprocess::local_socket::tokio::prelude::*;
use interprocess::local_socket::traits::StreamCommon;
use interprocess::local_socket::{GenericFilePath, ListenerOptions};
use nix::unistd::Uid;
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{MAX_SOCKET_PATH as MAX_PATH, create_private};
use crate::rpc;
use crate::service::Service;
use crate::terms::hexadecimal;
pub use connection::{Hello, Welcome};
pub use wire::discover;

/// The version of the messages.
pub const PROTOCOL: u32 = 1;

/// How often memory is given back at most.
const TRIM: Duration = Duration::from_secs(2);

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The kernel takes no such path.
    #[error("the path of the socket is too long: {} bytes, at most {MAX_PATH}\nchoose a shorter one with --socket PATH", .0.as_os_str().len())]
    TooLong(PathBuf),
    /// Somebody answers there.
    #[error("another host listens at {}\nuse that host, or give this one its own socket with --socket PATH", .0.display())]
    InUse(PathBuf),
    /// What is there is no socket.
    #[error("{} exists and is not a socket\nremove it, or choose another path with --socket PATH", .0.display())]
    NotASocket(PathBuf),
    /// The folder belongs to somebody else.
    #[error("other users may enter the folder {}\nrun chmod 700 {}, or choose another path with --socket PATH", .0.display(), .0.display())]
    Folder(PathBuf),
    /// The socket cannot be made.
    #[error("cannot listen at {}: {source}\nchoose another path with --socket PATH", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The socket that clients connect to. Its files go when it is dropped.
#[derive(Debug)]
pub struct Socket {
    listener: Listener,
    path: PathBuf,
    token: Arc<str>,
}

/// How many clients may do how much.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at a time.
    pub connections: usize,
    /// What one connection may do.
    pub each: rpc::Limits,
}

/// Returns the file with the token that a client must present.
pub fn token_file(socket: &Path) -> PathBuf {
    match socket.extension() {
        Some(ending) if ending == "sock" => socket.with_extension("token"),
        _ => {
            let mut name = socket.as_os_str().to_owned();
            name.push(".token");
            name.into()
        }
    }
}

impl Socket {
    /// Listens at a path. A socket that a killed host has left there is replaced.
    pub async fn open(path: &Path) -> Result<Self, ListenError> {
        if path.as_os_str().len() > MAX_PATH {
            return Err(ListenError::TooLong(path.to_owned()));
        }
        let failed = |source| ListenError::Io { path: path.to_owned(), source };
        let folder = path.parent().unwrap_or(Path::new("."));
        create_private(folder).map_err(failed)?;
        let info = fs::metadata(folder).map_err(failed)?;
        if info.uid() != Uid::effective().as_raw() || info.mode() & 0o077 != 0 {
            return Err(ListenError::Folder(folder.to_owned()));
        }
        remove_stale(path).await?;
        let token = write_token(&token_file(path)).map_err(failed)?;
        let name = path.to_fs_name::<GenericFilePath>().map_err(failed)?;
        let listener = ListenerOptions::new().name(name).create_tokio().map_err(failed)?;
        Ok(Self { listener, path: path.to_owned(), token })
    }

    /// Returns where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Serves clients until it is told to stop; what was asked before is still answered.
    pub async fn serve(self, service: Arc<Service>, limits: Limits, stop: CancellationToken) {
        let (room, served) = (Arc::new(Semaphore::new(limits.connections)), TaskTracker::new());
        loop {
            let permit = room.clone().acquire_owned().await.expect("the room is never closed");
            let stream = tokio::select! {
                stream = self.listener.accept() => stream,
                () = stop.cancelled() => break,
            };
            let stream = match stream {
                Ok(stream) => stream,
                Err(error) => {
                    // Out of file descriptors, say: others may be closing theirs.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let euid = stream.peer_creds().ok().and_then(|peer| peer.euid());
            if euid != Some(Uid::effective().as_raw()) {
                tracing::warn!(?euid, "somebody else tried to connect");
                continue;
            }
            let (reading, writing) = tokio::io::split(stream);
            let (service, token, stop) = (service.clone(), Some(self.token.clone()), stop.clone());
            let each = limits.each.clone();
            served.spawn(async move {
                connection::serve(reading, writing, service, token, each, stop).await;
                drop(permit);
                give_back_memory();
            });
        }
        served.close();
        served.wait().await;
    }
}

/// Gives back to the kernel what a connection that has ended had in use, now and then.
fn give_back_memory() {
    static LAST: Mutex<Option<Instant>> = Mutex::new(None);
    let mut last = LAST.lock().expect("no code panics under this lock");
    if last.is_none_or(|last| last.elapsed() > TRIM) {
        *last = Some(Instant::now());
        #[cfg(target_env = "gnu")]
        // SAFETY: a call of the C library that changes nothing that anybody holds.
        unsafe {
            nix::libc::malloc_trim(0);
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // The listener removes the socket itself.
        let _ = fs::remove_file(token_file(&self.path));
    }
}

/// Serves one client that is part of this process.
pub async fn serve_own(stream: UnixStream, service: Arc<Service>, stop: CancellationToken) {
    let (reading, writing) = stream.into_split();
    let limits = rpc::Limits { requests: 256, ..rpc::Limits::of_a_child() };
    connection::serve(reading, writing, service, None, limits, stop).await;
}

/// Reads a line as a connection would, up to where something would be done.
///
/// Returns the code of the error that it would be answered with, if any.
pub fn understand(line: &[u8]) -> Option<i64> {
    match rpc::request(line) {
        Ok(Some((method, params))) => match wire::read(&method, params) {
            Some(read) => read.err().map(|error| error.code),
            None => Some(rpc::METHOD_NOT_FOUND),
        },
        Ok(None) => None,
        Err(code) => Some(code),
    }
}

/// Lets a peer read what a stranger may send, until its end or until it is hung up on.
/// For the fuzzer, as [`understand`].
pub async fn overhear(bytes: Vec<u8>) {
    let limits = rpc::Limits {
        line: 2048,
        requests: 4,
        bytes: 8192,
        patience: Duration::from_secs(1),
        nonsense: 8,
        shared: None,
    };
    let (_peer, mut incoming) = rpc::Peer::start(io::Cursor::new(bytes), tokio::io::sink(), limits);
    while let Some(message) = incoming.recv().await {
        if let rpc::Incoming::Request(mut request) = message {
            match wire::read(&request.method, request.params.take()) {
                Some(read) => request.answer(read.map(|()| serde_json::Value::Null)).await,
                None => request.refuse_method().await,
            }
        }
    }
}

/// Removes a socket that nobody listens at.
async fn remove_stale(path: &Path) -> Result<(), ListenError> {
    let failed = |source| ListenError::Io { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(info) if !info.file_type().is_socket() => return Err(ListenError::NotASocket(path.to_owned())),
        Ok(_) => {}
    }
    match UnixStream::connect(path).await {
        Ok(_) => Err(ListenError::InUse(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            tracing::info!(socket = %path.display(), "replacing the socket of a host that is gone");
            fs::remove_file(path).map_err(failed)
        }
        Err(error) => Err(failed(error)),
    }
}

/// Makes a new token; only this user can read it.
fn write_token(path: &Path) -> io::Result<Arc<str>> {
    let mut random = [0u8; 32];
    fs::File::open("/dev/urandom")?.read_exact(&mut random)?;
    let token = hexadecimal(&random);
    let aside = path.with_extension("token-new");
    let _ = fs::remove_file(&aside);
    let mut file = fs::File::options().write(true).create_new(true).mode(0o600).open(&aside)?;
    file.write_all(token.as_bytes())?;
    fs::rename(&aside, path)?;
    Ok(token.into())
}
