//! `hotshoe render`: one job and its frames, by a running host or one of its own.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde_json::json;

use super::client::{At, Client};
use super::follow::{Leaving, follow};
use super::lock::Locking;
use super::progress::View;
use super::stopping::Stopping;
use super::{Failure, INTERRUPTED, Result, WITHHELD};
use crate::blender::{Blender, find, install};
use crate::config::DataDir;
use crate::config::file::{Config, Sandboxing};
use crate::daemon::{Host, Options};
use crate::frames::Frames;
use crate::releases::shelf::is_path;
use crate::service::check::check;
use crate::service::types::{Job, Settings, Submission};
use crate::terms::{Capability, Upgrade, harmless};

/// What is to be rendered.
#[derive(Debug, clap::Args)]
pub(super) struct Wish {
    /// The .blend file to render.
    scene: PathBuf,
    /// The frames, such as 7 or 1-4,10,20-30x2 [default: the scene's own range and step].
    #[arg(short, long, allow_hyphen_values = true)]
    frames: Option<Frames>,
    /// Which scene of the file [default: the one that was active when it was saved].
    #[arg(short = 'S', long = "scene", value_name = "NAME")]
    scene_name: Option<String>,
    /// The renderer: a name, a name with a version (NAME@^1.2, NAME@=1.2.3, NAME@sha256:DIGITS), or the
    /// path of a component or plugin folder.
    #[arg(short, long, default_value = "direct")]
    renderer: String,
    /// A setting of the renderer; see `hotshoe plugin show NAME`.
    #[arg(short, long = "set", value_name = "NAME=VALUE")]
    settings: Vec<String>,
    /// The folder for the pictures [default: SCENE-frames beside the scene].
    #[arg(short, long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Encode the pictures into a movie at the end (.mp4, .mkv, .mov, .avi or .webm). A name puts it
    /// into the output folder; a path also sets the output folder.
    #[arg(long, value_name = "FILE")]
    movie: Option<PathBuf>,
    /// The device to render on [default: as the scene says].
    #[arg(long, value_enum)]
    device: Option<Device>,
    /// Limit the renderer to these capabilities: blender, image, gpu, state [default: everything it
    /// asks for and the operator allows].
    #[arg(long, value_name = "CAPABILITY,...", value_delimiter = ',')]
    allow: Option<Vec<Capability>>,
    /// Let Blender read this folder as well as the scene's own, for textures and libraries; repeat it
    /// for more. `hotshoe project allow` remembers a folder.
    #[arg(long, value_name = "DIR")]
    read: Vec<PathBuf>,
    /// Skip frames whose pictures exist already.
    #[arg(long)]
    skip_existing: bool,
    /// Skip frames that were rendered before from the same scene and settings, if their files are
    /// intact.
    #[arg(long)]
    resume: bool,
    /// Fail if files of the scene are missing, instead of warning.
    #[arg(long)]
    strict: bool,
    /// How far the renderer may be upgraded while the job runs: never, within its minor version, or to
    /// any version that the requirement accepts.
    #[arg(long, value_name = "HOW", default_value = "patch", value_parser = upgrades())]
    upgrade: Upgrade,
    /// A label for the job; the operator can try new releases on jobs with certain labels first.
    #[arg(long)]
    label: Option<String>,
    #[command(flatten)]
    pub(super) locking: Locking,
}

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    wish: Wish,
    /// How many Blenders render at the same time; each loads the scene into memory [default: 1]. A
    /// running host has its own number.
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: Option<u16>,
    /// The Blender to use: a program, its folder, or a Python with bpy. A running
    /// host has its own.
    #[arg(long, value_name = "PATH")]
    blender: Option<PathBuf>,
    /// How far the kernel confines Blender [default: auto]. `hotshoe doctor` shows what this kernel
    /// supports.
    #[arg(long, value_enum, value_name = "HOW")]
    sandbox: Option<Sandboxing>,
    /// Render in this process, even if a host is running.
    #[arg(long)]
    alone: bool,
    /// Print events as JSON, one a line.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    at: At,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Device {
    Cpu,
}

fn upgrades() -> impl TypedValueParser<Value = Upgrade> {
    let words = [Upgrade::Pinned, Upgrade::Patch, Upgrade::Compatible].map(Upgrade::as_str);
    PossibleValuesParser::new(words).try_map(|how| how.parse::<Upgrade>())
}

impl Wish {
    /// Makes a submission of it; a host does not know where this program stands.
    pub(super) fn submission(&self) -> Result<Submission> {
        let absolute = |path: &Path| std::path::absolute(path).map_err(Failure::bad_input);
        let renderer = match is_path(&self.renderer) {
            true => absolute(Path::new(&self.renderer))?.display().to_string(),
            false => self.renderer.clone(),
        };
        let (mut settings, mut out) = (self.settings.clone(), self.out.clone());
        if let Some(movie) = &self.movie {
            let (folder, name) = (movie.parent().unwrap_or(Path::new("")), movie.file_name());
            let name = name.and_then(|name| name.to_str()).ok_or_else(|| {
                Failure::bad_input(format!(
                    "'{}' is not the name of a movie\nwrite --movie shot.mp4",
                    movie.display()
                ))
            })?;
            if !folder.as_os_str().is_empty() && out.replace(folder.to_owned()).is_some() {
                return Err(Failure::bad_input(format!(
                    "the movie goes to the folder of --out, and --movie names another\nwrite --movie {name}"
                )));
            }
            settings.push(format!("movie={name}"));
        }
        let mut submission = Submission {
            scene: absolute(&self.scene)?,
            frames: self.frames.as_ref().map(Frames::to_string).unwrap_or_default(),
            scene_name: self.scene_name.clone(),
            read: self.read.iter().map(|folder| absolute(folder)).collect::<Result<_>>()?,
            trust: None,
            renderer,
            settings: Settings::Texts(settings),
            out: out.as_deref().map(absolute).transpose()?,
            skip_existing: self.skip_existing,
            resume: self.resume,
            strict: self.strict,
            cpu: self.device.is_some(),
            allow: self.allow.clone(),
            upgrade: self.upgrade,
            label: self.label.clone(),
            priority: 0,
            after: Vec::new(),
            key: None,
        };
        self.locking.apply(&mut submission)?;
        Ok(submission)
    }
}

pub(super) async fn run(mut args: Args, data: Option<PathBuf>) -> Result {
    loop {
        let ended = render(&args, data.clone()).await;
        let Err(Failure { code: WITHHELD, message, within }) = &ended else { return ended };
        match ask(message, within, &args)? {
            Some(Answer::Once(folders)) => args.wish.read.extend(folders),
            Some(Answer::Always(folders)) => {
                let data = super::open(data.clone())?;
                folders.iter().try_for_each(|folder| super::project::allow(&data, folder))?;
            }
            None => return ended,
        }
    }
}

async fn render(args: &Args, data: Option<PathBuf>) -> Result {
    let submission = args.wish.submission()?;
    let running = match args.alone {
        true => None,
        false => Client::connect(&args.at.path(data.as_deref())?).await?,
    };
    match running {
        Some(client) => by_host(client, args, &submission).await,
        None if args.at.socket.is_some() && !args.alone => {
            by_host(args.at.connect(data.as_deref()).await?, args, &submission).await
        }
        None => alone(args, submission, &super::open(data)?).await,
    }
}

/// What a person says of files that Blender may not read.
enum Answer {
    Once(Vec<PathBuf>),
    Always(Vec<PathBuf>),
}

/// Asks a person, if there is one, whether Blender may read what the scene needs.
fn ask(message: &str, folders: &[PathBuf], args: &Args) -> Result<Option<Answer>> {
    let is_person = std::io::stdin().is_terminal() && std::io::stderr().is_terminal() && !args.json;
    if !is_person || folders.is_empty() || folders.iter().any(|folder| args.wish.read.contains(folder)) {
        return Ok(None);
    }
    let needs = message.lines().take_while(|line| !line.starts_with("let it with"));
    needs.for_each(|line| tell!("{line}"));
    let names: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
    eprint!("May it read {}? [y]es, [a]lways, [N]o: ", harmless(&names.join(" and ")));
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).map_err(Failure::failed)?;
    Ok(match answer.trim().to_lowercase().as_str() {
        "y" | "yes" => Some(Answer::Once(folders.to_vec())),
        "a" | "always" => Some(Answer::Always(folders.to_vec())),
        _ => None,
    })
}

/// Lets a running host do it.
async fn by_host(mut client: Client, args: &Args, submission: &Submission) -> Result {
    let blender = args.blender.as_ref().map(|_| "--blender");
    let workers = args.workers.map(|_| "--workers");
    let sandbox = args.sandbox.map(|_| "--sandbox");
    if let Some(option) = blender.or(workers).or(sandbox) {
        return Err(Failure::bad_input(format!(
            "a host is running, and {option} is for it to decide\n\
             leave it out, or render without that host with --alone"
        )));
    }
    let mut stopping = Stopping::listen()?;
    let status = client.status().await?;
    let job: Job = client.call("jobs.submit", submission).await?;
    args.wish.locking.note(&job)?;
    client.subscribe(status.last_event, Some(job.id), true).await?;
    let mut view = View::choose(args.json, status.slots);
    if status.running >= status.slots && !args.json {
        let jobs = if status.open_jobs == 1 {
            "another job".to_owned()
        } else {
            format!("{} jobs", status.open_jobs)
        };
        view.note(&format!(
            "The running host is busy with {jobs}; `hotshoe job list` shows what this one waits for."
        ));
    }
    follow(&mut client, job.id, &mut view, Leaving::Cancels, &mut stopping, false).await
}

/// Runs a host for this one job.
async fn alone(args: &Args, submission: Submission, data: &DataDir) -> Result {
    let (mut config, _) = Config::read(None).map_err(Failure::bad_input)?;
    config.workers.count = args.workers.unwrap_or(1);
    config.workers.sandbox = args.sandbox.unwrap_or(config.workers.sandbox);
    let releases = super::releases(data, &config)?;
    // Before a Blender is looked for, or even installed. It would sweep away what an
    // earlier render left aside and this one resumes from.
    if !submission.resume {
        check(&releases, &Default::default(), submission.clone()).await.map_err(Failure::bad_input)?;
    }
    let mut stopping = Stopping::listen()?;
    let given = args.blender.as_deref().or(config.blender.path.as_deref());
    let blender = stopping.cuts("a Blender was installed", choose_blender(given, data, args.json)).await?;
    tracing::info!(blender = %blender.path().display(), "using this Blender");
    let program = std::env::current_exe().map_err(Failure::failed)?;
    let mut view = View::choose(args.json, config.workers.count.into());
    let options = Options { blender, program, releases, config, config_file: None, dev: false, alone: true };
    let host = Host::start(data, options).await.map_err(Failure::failed)?;
    let render = async {
        let mut client = Client::greet(host.connect().map_err(Failure::failed)?, None).await?;
        client.subscribe(0, None, true).await?;
        let job: Job = client.call("jobs.submit", &json!(submission)).await?;
        args.wish.locking.note(&job)?;
        follow(&mut client, job.id, &mut view, Leaving::Cancels, &mut stopping, false).await
    };
    let result = tokio::select! {
        result = render => result,
        () = host.lost() => Err(Failure::failed("the host cannot go on")),
    };
    tokio::select! {
        stopped = host.stop() => result.and(stopped.map_err(Failure::failed)),
        () = stopping.asked() => std::process::exit(INTERRUPTED.into()),
    }
}

/// Takes the first Blender there is; installs one if there is none.
pub(super) async fn choose_blender(given: Option<&Path>, data: &DataDir, quiet: bool) -> Result<Blender> {
    let found = find::all(given, data).map_err(Failure::bad_input)?;
    if let Some(first) = found.into_iter().next() {
        return Ok(first.blender);
    }
    if !quiet {
        tell!("There is no Blender on this machine yet; installing one for Hotshoe.");
    }
    super::blender::install(&install::Request::default(), data, quiet).await
}
