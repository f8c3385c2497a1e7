//! gRPC over a Unix socket between two processes, with tonic. The program is both: with
//! the path of a socket as its argument it serves there.

use std::convert::Infallible;
use std::error::Error;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::process::Stdio;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::io::AsyncReadExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::process::{Child, Command};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::body::Body;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::http::{Request as HttpRequest, Response as HttpResponse, Uri};
use tonic::server::{NamedService, UnaryService};
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const CALLS: usize = 20_000;
const MANY: usize = 100_000;
const WINDOW: usize = 64;
const STARTS: usize = 11;
const METHOD: &str = "/peer.Echo/Next";

/// The record that travels.
#[derive(Clone, PartialEq, prost::Message)]
struct Shot {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(int32, tag = "2")]
    frame: i32,
    #[prost(double, tag = "3")]
    weight: f64,
}

struct Next;

impl UnaryService<Shot> for Next {
    type Response = Shot;
    type Future = Ready<std::result::Result<Response<Shot>, Status>>;

    fn call(&mut self, shot: Request<Shot>) -> Self::Future {
        let shot = shot.into_inner();
        ready(Ok(Response::new(Shot { frame: shot.frame + 1, ..shot })))
    }
}

#[derive(Clone)]
struct Echo;

impl NamedService for Echo {
    const NAME: &'static str = "peer.Echo";
}

impl tower::Service<HttpRequest<Body>> for Echo {
    type Response = HttpResponse<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = std::result::Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::result::Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: HttpRequest<Body>) -> Self::Future {
        let codec = ProstCodec::<Shot, Shot>::default();
        Box::pin(async move { Ok(tonic::server::Grpc::new(codec).unary(Next, request).await) })
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    match std::env::args().nth(1) {
        Some(socket) => serve(&socket).await,
        None => measure().await,
    }
}

async fn serve(socket: &str) -> Result<()> {
    let listener = UnixListenerStream::new(UnixListener::bind(socket)?);
    println!();
    Server::builder().add_service(Echo).serve_with_incoming(listener).await?;
    Ok(())
}

/// Starts the other process, and connects once it serves.
async fn start() -> Result<(Child, Channel)> {
    let socket = std::env::temp_dir().join(format!("tonic-peer-{}.sock", std::process::id()));
    let _ = std::fs::remove_file(&socket);
    let mut command = Command::new(std::env::current_exe()?);
    let mut child = command.arg(&socket).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
    child.stdout.take().ok_or("no output")?.read_u8().await?;
    let connect = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(UnixStream::connect(socket).await?)) }
    });
    let channel = Endpoint::from_static("http://unix").connect_with_connector(connect).await?;
    Ok((child, channel))
}

async fn call(channel: &Channel, frame: i32) -> Result<()> {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await?;
    let shot = Shot { name: "frame-1".to_owned(), frame, weight: 0.5 };
    let codec = ProstCodec::<Shot, Shot>::default();
    let answer = grpc.unary(Request::new(shot), PathAndQuery::from_static(METHOD), codec).await?;
    if answer.into_inner().frame == frame + 1 { Ok(()) } else { Err("a wrong frame came back".into()) }
}

async fn measure() -> Result<()> {
    let (mut first, mut each) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        let began = Instant::now();
        let (mut child, channel) = start().await?;
        call(&channel, 1).await?;
        first.push(began.elapsed().as_secs_f64() * 1e3);
        child.kill().await?;
    }
    let (mut child, channel) = start().await?;
    for frame in 0..CALLS {
        let began = Instant::now();
        call(&channel, frame as i32).await?;
        each.push(began.elapsed().as_secs_f64() * 1e6);
    }
    let began = Instant::now();
    let callers = (0..WINDOW).map(|_| {
        let channel = channel.clone();
        tokio::spawn(async move {
            for frame in 0..MANY / WINDOW {
                call(&channel, frame as i32).await?;
            }
            Ok::<_, Box<dyn Error + Send + Sync>>(())
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await??;
    }
    let rate = (MANY / WINDOW * WINDOW) as f64 / began.elapsed().as_secs_f64();
    child.kill().await?;
    let (each, first) = (median(each), median(first));
    println!("{{\"call_us\": {each:.3}, \"calls_per_s\": {rate:.0}, \"first_call_ms\": {first:.3}}}");
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
