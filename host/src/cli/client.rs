//! A client of a host: over its socket, or over a socket pair to one in this process.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use super::{BAD_INPUT, FAILED, Failure, Result};
use crate::api::{Hello, PROTOCOL, Welcome, token_file};
use crate::config;
use crate::config::file::Config;
use crate::events::{Event, Progress};
use crate::rpc::{CallError, INVALID_PARAMS, Incoming, Limits, Peer};
use crate::service::types::{EventPage, Host, JobPage};
use crate::terms::JobId;

/// How long a host may take to answer a hello.
const HELLO: Duration = Duration::from_secs(10);

/// Where the host is.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct At {
    /// The socket of the host [default: where `hotshoe serve` listens].
    #[arg(long, global = true, value_name = "PATH", env = "HOTSHOE_SOCKET")]
    pub socket: Option<PathBuf>,
}

/// How to ask.
#[derive(Debug, clap::Args)]
pub(super) struct Ask {
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub at: At,
}

/// A job as a person names it: its id, or the beginning of it.
#[derive(Debug, Clone)]
pub(super) struct JobName(String);

impl FromStr for JobName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_part = text.len() >= 4 && text.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
        match is_part {
            true => Ok(Self(text.to_lowercase())),
            // It says how an id looks.
            false => text.parse::<JobId>().map(|id| Self(id.to_string())),
        }
    }
}

/// A connection to a host.
pub(super) struct Client {
    peer: Arc<Peer>,
    incoming: mpsc::Receiver<Incoming>,
}

/// What a host tells of itself.
pub(super) enum News {
    /// Things happened.
    Events(Vec<Event>),
    /// An attempt is under way.
    Progress(Progress),
}

impl At {
    /// Returns the path of the socket.
    pub(super) fn path(&self, data: Option<&Path>) -> Result<PathBuf> {
        let config = match self.socket {
            // What was named needs no configuration, not even a sound one.
            Some(_) => Config::default(),
            None => Config::read(None).map_err(Failure::bad_input)?.0,
        };
        self.place(&config, data)
    }

    /// Returns the path of the socket under a configuration.
    pub(super) fn place(&self, config: &Config, data: Option<&Path>) -> Result<PathBuf> {
        match self.socket.as_ref().or(config.socket.as_ref()) {
            Some(path) => std::path::absolute(path).map_err(Failure::bad_input),
            None => config::socket(data).map_err(Failure::failed),
        }
    }

    /// Connects to the host; fails if there is none.
    pub(super) async fn connect(&self, data: Option<&Path>) -> Result<Client> {
        let path = self.path(data)?;
        Client::connect(&path).await?.ok_or_else(|| {
            let path = path.display();
            Failure::failed(format!(
                "no host listens at {path}\nstart one with `hotshoe serve`, or name its socket with --socket PATH"
            ))
        })
    }
}

impl Client {
    /// Connects to the host that listens at a socket; none if nobody does.
    pub(super) async fn connect(socket: &Path) -> Result<Option<Self>> {
        let stream = match UnixStream::connect(socket).await {
            Ok(stream) => stream,
            Err(error) => {
                use std::io::ErrorKind::{ConnectionRefused, NotFound};
                let is_none = [ConnectionRefused, NotFound].contains(&error.kind());
                let failed = || Failure::failed(format!("cannot connect to {}: {error}", socket.display()));
                return is_none.then_some(None).ok_or_else(failed);
            }
        };
        let file = token_file(socket);
        let token = std::fs::read_to_string(&file).map_err(|error| {
            Failure::failed(format!("cannot read the token of the host, {}: {error}", file.display()))
        })?;
        Self::greet(stream, Some(token)).await.map(Some)
    }

    /// Greets a host over a connection that is there already.
    pub(super) async fn greet(stream: UnixStream, token: Option<String>) -> Result<Self> {
        let (reading, writing) = stream.into_split();
        let (peer, incoming) = Peer::start(reading, writing, Limits::of_a_child());
        let client = Self { peer: Arc::new(peer), incoming };
        let hello = Hello { role: "client".to_owned(), protocol: PROTOCOL, features: Vec::new(), token };
        match tokio::time::timeout(HELLO, client.call::<Welcome>("hello", &hello)).await {
            Ok(welcome) => welcome.map(|_| client),
            Err(_) => Err(Failure::failed("the host does not answer; is it stopped?")),
        }
    }

    /// Calls a method of the host.
    pub(super) async fn call<T: DeserializeOwned>(&self, method: &str, params: &impl Serialize) -> Result<T> {
        self.peer.call(method, params).await.map_err(|error| match error {
            CallError::Answer(error) => {
                // Refused, not found, in the wrong state: the person asked for something else.
                let is_theirs = (-32003..=-32001).contains(&error.code) || error.code == INVALID_PARAMS;
                Failure::new(if is_theirs { BAD_INPUT } else { FAILED }, error.message)
            }
            CallError::Closed => Failure::failed("the host closed the connection"),
            CallError::Malformed(error) => Failure::failed(format!("the host answers strangely: {error}")),
        })
    }

    /// Finds the job that a person names.
    pub(super) async fn job(&self, JobName(name): &JobName) -> Result<JobId> {
        if let Ok(id) = name.parse() {
            return Ok(id);
        }
        let page: JobPage = self.call("jobs.list", &json!({"prefix": name, "limit": 10})).await?;
        match page.jobs.as_slice() {
            [job] => Ok(job.id),
            [] => Err(Failure::bad_input(format!(
                "there is no job whose id begins with {name}\n`hotshoe job list` lists those that there are"
            ))),
            several => {
                let ids: Vec<String> = several.iter().map(|job| job.id.to_string()).collect();
                Err(Failure::bad_input(format!("several jobs begin with {name}:\n{}", ids.join("\n"))))
            }
        }
    }

    /// Asks for something, and does not wait for the answer: news would wait behind it.
    pub(super) fn call_soon(&self, method: &'static str, params: serde_json::Value) {
        let peer = self.peer.clone();
        tokio::spawn(async move {
            if let Err(error) = peer.call::<serde_json::Value>(method, &params).await {
                tracing::debug!(%error, method, "was refused");
            }
        });
    }

    /// Asks how the host stands.
    pub(super) async fn status(&self) -> Result<Host> {
        self.call("host.status", &json!({})).await
    }

    /// Goes through what is stored after a number, of one job if one is given; returns
    /// the number of the last event.
    pub(super) async fn stored_events(
        &self,
        mut from: u64,
        job: Option<JobId>,
        mut each: impl FnMut(&Event),
    ) -> Result<u64> {
        loop {
            let params = json!({"job": job, "from": from, "limit": 1000});
            let page: EventPage = self.call("events.list", &params).await?;
            let Some(last) = page.events.last() else { return Ok(from) };
            from = last.seq;
            page.events.iter().for_each(&mut each);
        }
    }

    /// Follows events after a number, of one job if one is given, and progress.
    pub(super) async fn subscribe(
        &self,
        from: u64,
        job: Option<JobId>,
        progress: bool,
    ) -> Result<Option<u64>> {
        let params = json!({"from": from, "job": job, "progress": progress});
        let subscribed: serde_json::Value = self.call("events.subscribe", &params).await?;
        Ok(subscribed["missed"].as_u64())
    }

    /// Waits for news; none if the connection has ended.
    pub(super) async fn news(&mut self) -> Option<News> {
        loop {
            let Incoming::Notification(mut news) = self.incoming.recv().await? else { continue };
            let read = match news.method.as_str() {
                "events" => serde_json::from_value(news.params["events"].take()).map(News::Events),
                "progress" => serde_json::from_value(news.params["progress"].take()).map(News::Progress),
                _ => continue,
            };
            match read {
                Ok(news) => return Some(news),
                Err(error) => tracing::warn!(%error, "news that cannot be understood"),
            }
        }
    }

    /// Waits until the host has closed the connection.
    pub(super) async fn closed(&self) {
        self.peer.closed().await;
    }
}
