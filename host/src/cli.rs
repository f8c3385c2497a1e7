//! The command line: one file a command.
//!
//! Talks to a host like any client. Owns the terminal; nothing below prints.

/// Prints a line. A reader that went away is no reason to stop. What a terminal would obey is
/// taken out: names and texts of plugins and scenes are printed here.
macro_rules! say {
    ($($line:tt)*) => {{
        use std::io::Write;
        let _ = writeln!(std::io::stdout(), "{}", $crate::terms::harmless(&format!($($line)*)));
    }};
}

/// The same for what is no answer: steps, warnings, errors.
macro_rules! tell {
    ($($line:tt)*) => {{
        use std::io::Write;
        let _ = writeln!(std::io::stderr(), "{}", $crate::terms::harmless(&format!($($line)*)));
    }};
}

/// Prints a line of what was asked for. Without a reader there is nothing left to do.
macro_rules! show {
    ($($line:tt)*) => {{
        use std::io::Write;
        if writeln!(std::io::stdout(), "{}", $crate::terms::harmless(&format!($($line)*))).is_err() {
            std::process::exit(0);
        }
    }};
}

pub mod bench;
mod blender;
mod client;
mod config;
mod confined;
mod crash;
mod doctor;
mod follow;
mod host;
mod job;
mod lock;
mod plugin;
mod progress;
mod project;
mod render;
mod scene;
mod serve;
mod stopping;
mod table;

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgAction, CommandFactory, Parser, Subcommand, ValueEnum};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tracing_subscriber::EnvFilter;

use crate::config::DataDir;
use crate::config::file::Config;
use crate::plugin::component::Components;
use crate::releases::Releases;
use crate::terms::harmless;

/// The hot shoe for Blender rendering: renderer plugins, hot-swappable and isolated.
#[derive(Debug, Parser)]
#[command(name = "hotshoe", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// The folder for the database, installed Blenders and plugins.
    #[arg(long, global = true, value_name = "DIR", env = "HOTSHOE_DATA")]
    data: Option<PathBuf>,
    /// Also before the command; each that uses it takes it from there.
    #[command(flatten)]
    _at: client::At,
    /// Say more on stderr: -v for steps, -vv for details, -vvv for all that Blender prints.
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,
    /// Shape of the log on stderr.
    #[arg(long, global = true, value_enum, value_name = "FORMAT", default_value = "text")]
    log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Render frames of a scene.
    Render(render::Args),
    /// Run the host of a render node, for clients to connect to.
    Serve(serve::Args),
    /// Submit a job to a running host.
    Submit(job::Submit),
    /// Show and control the jobs of a running host.
    Job(job::Args),
    /// Show the workers of a running host.
    Worker(host::ListArgs),
    /// Show the devices of a running host.
    Device(host::ListArgs),
    /// Print the events of a running host as JSON, one a line.
    Events(host::Events),
    /// Show and control a running host.
    Host(host::Args),
    /// Check or print the configuration.
    Config(config::Args),
    /// Find and install Blenders.
    Blender(blender::Args),
    /// Show, install and upgrade renderers.
    Plugin(plugin::Args),
    /// Choose which folders the scenes of a project may read.
    Project(project::Args),
    /// Choose which scenes may run their Python.
    Scene(scene::Args),
    /// Show reports of crashed plugins and Blenders.
    Crash(crash::Args),
    /// Check this machine: what was found, what is missing and how to get it.
    Doctor(doctor::Args),
    /// Run benchmarks on this machine.
    Bench(bench::Args),
    /// Print shell completions.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// How a command failed: the program's exit code and what to tell.
#[derive(Debug)]
struct Failure {
    code: u8,
    message: String,
    /// Folders that Blender would have to read, if that is why.
    within: Vec<PathBuf>,
}

/// Something was asked for that cannot be done.
const BAD_INPUT: u8 = 2;
/// Something that was begun did not succeed.
const FAILED: u8 = 1;
/// The scene needs files that Blender may not read unless somebody lets it.
const WITHHELD: u8 = 3;
/// Ended by Ctrl-C, as shells count it.
const INTERRUPTED: u8 = 130;

type Result<T = (), E = Failure> = std::result::Result<T, E>;

impl Failure {
    fn new(code: u8, error: impl fmt::Display) -> Self {
        Self { code, message: error.to_string(), within: Vec::new() }
    }

    fn bad_input(error: impl fmt::Display) -> Self {
        Self::new(BAD_INPUT, error)
    }

    fn failed(error: impl fmt::Display) -> Self {
        Self::new(FAILED, error)
    }
}

/// Makes the releases of this program, with an engine to run them.
fn releases(data: &DataDir, config: &Config) -> Result<Releases> {
    let components = Components::new().map_err(Failure::failed)?;
    Ok(Releases::new(components, data.clone(), config))
}

/// Lets this process have as many files and sockets open as it may at all; returns how many.
fn raise_file_limit() -> u64 {
    let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) else { return u64::MAX };
    let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    most
}

/// Opens the data directory.
fn open(given: Option<PathBuf>) -> Result<DataDir> {
    DataDir::open(given).map_err(|error| {
        let hint = "choose another with --data DIR";
        Failure::bad_input(format!("cannot use the data directory: {error}\n{hint}"))
    })
}

/// Runs the program and returns its exit code.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    log(cli.verbose, cli.log_format);
    raise_file_limit();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report(Failure::failed(format!("cannot start: {error}"))),
    };
    let result = runtime.block_on(run(cli));
    // Nothing is waited for that still runs: workers end with their life lines.
    runtime.shutdown_background();
    result.map_or_else(report, |()| ExitCode::SUCCESS)
}

async fn run(cli: Cli) -> Result {
    let given = cli.data;
    let data = || open(given.clone());
    match cli.command {
        Command::Render(args) => render::run(args, given).await,
        Command::Serve(args) => serve::run(args, given).await,
        Command::Submit(args) => job::submit(args, given.as_deref()).await,
        Command::Job(args) => job::run(args, given.as_deref()).await,
        Command::Worker(args) => host::workers(args, given.as_deref()).await,
        Command::Device(args) => host::devices(args, given.as_deref()).await,
        Command::Events(args) => host::events(args, given.as_deref()).await,
        Command::Host(args) => host::run(args, given.as_deref()).await,
        Command::Config(args) => config::run(args),
        Command::Blender(args) => blender::run(args, &data()?).await,
        Command::Plugin(args) => plugin::run(args, &data()?).await,
        Command::Project(args) => project::run(args, &data()?),
        Command::Scene(args) => scene::run(args, &data()?),
        Command::Crash(args) => crash::run(args, &data()?),
        Command::Doctor(args) => doctor::run(args, &data()?).await,
        Command::Bench(args) => bench::run(args, &data()?).await,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "hotshoe", &mut script);
            // Without a reader there is nothing left to do.
            let _ = io::stdout().write_all(&script);
            Ok(())
        }
    }
}

fn log(verbose: u8, format: LogFormat) {
    let level =
        ["warn,notify=error", "hotshoe=info,warn,notify=error", "hotshoe=debug,info", "hotshoe=trace,debug"]
            [verbose.min(3) as usize];
    let filter = EnvFilter::try_from_env("HOTSHOE_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    match format {
        LogFormat::Text => builder.with_ansi(io::stderr().is_terminal()).init(),
        LogFormat::Json => builder.json().init(),
    }
}

/// Tells what went wrong in one line and what to do in the ones after it.
fn report(failure: Failure) -> ExitCode {
    if failure.message.is_empty() {
        return ExitCode::from(failure.code);
    }
    let red = |text: &str| match io::stderr().is_terminal() {
        true => format!("\x1b[1;31m{text}\x1b[0m"),
        false => text.to_owned(),
    };
    let mut lines = failure.message.lines();
    let first = harmless(lines.next().unwrap_or_default());
    let _ = writeln!(io::stderr(), "{} {first}", red("error:"));
    lines.for_each(|line| tell!("  {line}"));
    ExitCode::from(failure.code)
}
