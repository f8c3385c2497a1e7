//! What Hotshoe costs and saves: whole renders beside plain Blender's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use super::{Args, Failure, Goal, Reference, Result, Row, Samples};
use crate::blender::{Blender, find};
use crate::config::DataDir;

/// The same as `blender -b SCENE -a`, under a Python with bpy; no frames: load only.
const ANIMATION: &str = "
import bpy, os, sys
scene, out, first, last = sys.argv[1:]
bpy.ops.wm.open_mainfile(filepath=scene, load_ui=False, use_scripts=False)
if first != last or first != '0':
    s = bpy.context.scene
    s.render.filepath = out
    s.frame_end, s.frame_start = int(last), int(first)
    bpy.ops.render.render(animation=True)
sys.stdout.flush()
os._exit(0)
";
/// The most that a host may keep in memory while it renders, in MiB.
const MEMORY: f64 = 64.0;

struct Bench<'a> {
    args: &'a Args,
    data: &'a DataDir,
    blender: Blender,
    out: tempfile::TempDir,
    bar: ProgressBar,
}

/// How a process ran.
struct Ran {
    seconds: f64,
    /// The most that this process alone had in memory, in MiB.
    memory: f64,
}

pub(super) async fn run(args: &Args, data: &DataDir) -> Result<Vec<Row>> {
    let found = find::all(args.blender.as_deref(), data).map_err(Failure::bad_input)?;
    let blender = found.into_iter().next().map(|found| found.blender);
    let blender =
        blender.ok_or_else(|| Failure::bad_input("there is no Blender\nhotshoe blender install"))?;
    let scenes = scenes(args)?;
    let (out, runs) = (tempfile::tempdir().map_err(Failure::failed)?, u64::from(args.runs));
    let bar = ProgressBar::new(scenes.len() as u64 * runs * 7);
    let style = ProgressStyle::with_template("{bar:28.green/dim} {pos}/{len} {msg} ({elapsed})");
    bar.set_style(style.expect("the template is well-formed"));
    bar.enable_steady_tick(Duration::from_secs(1));
    let bench = Bench { args, data, blender, out, bar };
    let mut rows = Vec::new();
    for scene in &scenes {
        rows.extend(bench.scene(scene)?);
    }
    bench.bar.finish_and_clear();
    Ok(rows)
}

fn scenes(args: &Args) -> Result<Vec<PathBuf>> {
    if !args.scenes.is_empty() {
        return Ok(args.scenes.clone());
    }
    let entries = std::fs::read_dir("examples/scenes").into_iter().flatten().flatten();
    let mut scenes: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "blend"))
        .collect();
    scenes.sort();
    match scenes.is_empty() {
        true => Err(Failure::bad_input("there is no examples/scenes here\nname scenes with --scene FILE")),
        false => Ok(scenes),
    }
}

impl Bench<'_> {
    /// All measurements of one scene, in turn, so that a slow minute hits all alike.
    fn scene(&self, scene: &Path) -> Result<Vec<Row>> {
        let name = scene.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let frames = self.args.frames;
        let [mut plain, mut ours, mut pair, mut saved, mut start] = [const { Vec::new() }; 5];
        let mut memory = Vec::new();
        for _ in 0..self.args.runs {
            plain.push(self.step(&name, "plain Blender", self.plain(scene, 1, frames))?.seconds);
            let ran = self.step(&name, "hotshoe", self.ours(scene, 1)?)?;
            ours.push(ran.seconds);
            memory.push(ran.memory);
            let alone = [1, 3, 5].map(|sixth| (frames * sixth / 6).max(1));
            let warm = self.took(&alone)?;
            pair.push(self.step(&name, "hotshoe, two workers", self.ours(scene, 2)?)?.seconds);
            let mut cold = 0.0;
            for frame in alone {
                cold += self.step(&name, "one process a frame", self.plain(scene, frame, frame))?.seconds;
            }
            saved.push((cold - warm) / alone.len() as f64);
            start.push(self.step(&name, "start and load", self.plain(scene, 0, 0))?.seconds);
        }
        let animation = ("blender -b -a", plain.as_slice());
        let limit = Reference { name: "limit".to_owned(), median: MEMORY };
        Ok(vec![
            Row::in_turn(format!("{name}: {frames} frames"), "s", &ours, animation, Goal::RatioAtMost(1.03)),
            Row::in_turn(format!("{name}: two workers"), "s", &pair, animation, Goal::RatioAtMost(1.0)),
            Row::in_turn(
                format!("{name}: saved a frame"),
                "s",
                &saved,
                ("start and load", &start),
                Goal::RatioAtLeast(1.0),
            ),
            Row::new(
                format!("{name}: host memory"),
                "MiB",
                &Samples::new(memory),
                limit,
                Goal::MedianAtMost(MEMORY),
            ),
        ])
    }

    fn step(&self, scene: &str, what: &str, command: Command) -> Result<Ran> {
        self.bar.set_message(format!("{scene}: {what}"));
        let ran = measured(command).map_err(|error| Failure::failed(format!("{scene}: {what}: {error}")))?;
        self.bar.inc(1);
        Ok(ran)
    }

    fn ours(&self, scene: &Path, workers: u16) -> Result<Command> {
        let mut render = command(&std::env::current_exe().map_err(Failure::failed)?);
        render.arg("render").arg(scene).arg("--frames").arg(format!("1-{}", self.args.frames));
        render.arg("--workers").arg(workers.to_string()).arg("--out").arg(self.out.path());
        render.arg("--blender").arg(self.blender.path()).arg("--data").arg(self.data.path());
        render.arg("--json").stdout(fs::File::create(self.events()).map_err(Failure::failed)?);
        Ok(render)
    }

    /// Where the last run of ours left its events.
    fn events(&self) -> PathBuf {
        self.out.path().join("events")
    }

    /// Seconds that some frames took together in the last run of ours.
    fn took(&self, frames: &[u16]) -> Result<f64> {
        let events = fs::read_to_string(self.events()).map_err(Failure::failed)?;
        let events = events.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let done: Vec<Value> = events.filter(|event| event["state"] == "done").collect();
        let took = |frame: &u16| done.iter().find(|event| event["frame"] == *frame)?["seconds"].as_f64();
        let unknown = |frame| Failure::failed(format!("nothing tells how long frame {frame} took"));
        frames.iter().map(|frame| took(frame).ok_or_else(|| unknown(frame))).sum()
    }

    /// Plain Blender renders the frames, or none if both are 0.
    fn plain(&self, scene: &Path, first: u16, last: u16) -> Command {
        let out = self.out.path().join("plain_####");
        let (first, last) = (first.to_string(), last.to_string());
        let mut plain = command(self.blender.path());
        match self.blender {
            Blender::Module(_) => {
                plain.args(["-s", "-c", ANIMATION]).arg(scene).arg(out).args([first, last]);
            }
            Blender::Program(_) => {
                plain.args(["--background", "--factory-startup", "--disable-autoexec"]).arg(scene);
                plain.arg("--render-output").arg(out);
                if last != "0" {
                    plain.args(["--frame-start", &first, "--frame-end", &last, "--render-anim"]);
                }
            }
        }
        plain
    }
}

fn command(program: &Path) -> Command {
    #[expect(clippy::disallowed_methods, reason = "whole programs are what is measured")]
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Runs a program to its end, watching how much memory it takes.
fn measured(mut command: Command) -> std::io::Result<Ran> {
    let began = Instant::now();
    let mut child = command.spawn()?;
    let mut memory = 0.0_f64;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        memory = memory.max(peak_memory(child.id()).unwrap_or_default());
        std::thread::sleep(Duration::from_millis(2));
    };
    let seconds = began.elapsed().as_secs_f64();
    match status.success() {
        true => Ok(Ran { seconds, memory }),
        false => Err(std::io::Error::other(format!("{command:?} failed: {status}"))),
    }
}

/// The most that a process had in memory so far, in MiB, as the kernel counts.
fn peak_memory(pid: u32) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.split_whitespace().next()?.parse::<f64>().ok()? / 1024.0)
}
