//! The worker program's conformance, in every Blender there is.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hotshoe::blender::pool::{Limits, Pool, Wanted};
use hotshoe::blender::seats::{Seat, Seats};
use hotshoe::blender::wire::{Addons, Develop, Opening, Paths, Progress, Region, Samples, Shot, Write};
use hotshoe::blender::worker::{Launch, Patience, Worker};
use hotshoe::blender::{Blender, BlenderError};
use hotshoe::config::file::Sandboxing;
use hotshoe::store::Store;
use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;
use serde_json::json;
use tokio_util::task::TaskTracker;

use crate::harness::{self, PROGRAM, Picture, assert_same_pixels, blenders};

struct Bench {
    worker: Worker,
    folder: tempfile::TempDir,
}

fn launch(blender: &harness::Blender, folder: &Path) -> Launch {
    let path = blender.path.clone();
    let blender = if blender.is_module { Blender::Module(path) } else { Blender::Program(path) };
    let (guard, folder) = (PROGRAM.into(), folder.to_owned());
    // They write where a test looks.
    let (patience, sandbox) = (Patience::default(), Sandboxing::Off);
    let (read, environment, addons) = (Vec::new(), Vec::new(), Addons::default());
    let processes = TaskTracker::new();
    Launch { blender, guard, folder, patience, sandbox, read, environment, addons, processes }
}

impl Bench {
    async fn start(blender: &harness::Blender) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let launch = launch(blender, folder.path());
        Self { worker: Worker::start(&launch, 1, &Seat::default(), &[]).await.unwrap(), folder }
    }

    /// Renders a frame into a new folder and returns its picture's path.
    async fn write(&self, frame: i32, into: &str) -> PathBuf {
        let directory = self.folder.path().join(into);
        std::fs::create_dir_all(&directory).unwrap();
        self.worker.write(&Write { frame, name: None, directory: &directory, maker: MAKER }).await.unwrap();
        directory.join(format!("{frame:04}.png"))
    }
}

/// The release that has rendered, as its pictures tell.
const MAKER: &str = "direct@9.8.7+0123456789ab";

fn code<T: std::fmt::Debug>(result: Result<T, BlenderError>) -> String {
    match result {
        Err(BlenderError::Refused { code, .. }) => code,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_says_what_a_scene_is() {
    for blender in blenders() {
        let Bench { worker, .. } = Bench::start(&blender).await;
        assert_eq!(code(worker.inspect().await), "not-found");
        let opened = worker.open(&blender.scene("cameras"), false, &Opening::default()).await.unwrap();
        assert!(!opened.warm && opened.overwrite);
        let info = worker.inspect().await.unwrap();
        assert_eq!((info.width, info.height, info.samples), (160, 90, 8));
        assert_eq!((info.frame_start, info.frame_end, info.frame_step), (1, 4, 1));
        assert_eq!((info.engine.as_str(), info.file_format.as_str()), ("CYCLES", "PNG"));
        assert_eq!((info.camera.as_deref(), info.is_movie), (Some("Camera"), false));
        assert_eq!(
            (info.cameras, info.view_layers),
            (
                vec!["Camera".to_owned(), "Second".to_owned()],
                vec!["ViewLayer".to_owned(), "Empty".to_owned()]
            )
        );
        assert!(info.missing_files.is_empty() && info.blocked_scripts.is_empty() && info.views.is_empty());
        worker.open(&blender.scene("stereo"), false, &Opening::default()).await.unwrap();
        assert_eq!(worker.inspect().await.unwrap().views, ["left", "right"]);
        worker.open(&blender.scene("movie"), false, &Opening::default()).await.unwrap();
        assert!(worker.inspect().await.unwrap().is_movie);
        worker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_jobs_of_different_settings_share_a_worker_without_a_trace() {
    for blender in blenders() {
        let bench = Bench::start(&blender).await;
        let (worker, scene) = (&bench.worker, blender.scene("small"));
        worker.open(&scene, false, &Opening::default()).await.unwrap();
        let fresh = bench.write(2, "fresh").await;
        let before = worker.inspect().await.unwrap();
        for (path, value) in [
            ("cycles.samples", json!(2)),
            ("render.resolution_percentage", json!(25)),
            ("engine", json!("EEVEE")),
            ("engine", json!("CYCLES")),
            ("render.image_settings.file_format", json!("OPEN_EXR")),
            ("render.image_settings.file_format", json!("JPEG")),
            ("render.image_settings.color_mode", json!("BW")),
            ("view_settings.exposure", json!(2.0)),
            ("camera", json!("Camera")),
        ] {
            worker.set(path, &value).await.unwrap_or_else(|error| panic!("{path}: {error}"));
        }
        let directory = &bench.folder.path().join("other");
        std::fs::create_dir(directory).unwrap();
        worker.write(&Write { frame: 2, name: Some("other"), directory, maker: MAKER }).await.unwrap();
        let file = std::fs::read(directory.join("other0002.jpg")).unwrap();
        assert!(file.windows(MAKER.len()).any(|bytes| bytes == MAKER.as_bytes()), "who made it is not told");
        assert!(worker.open(&scene, false, &Opening::default()).await.unwrap().warm);
        let after = worker.inspect().await.unwrap();
        assert_eq!(serde_json::to_value(&after).unwrap(), serde_json::to_value(&before).unwrap());
        assert_same_pixels(&bench.write(2, "again").await, &fresh);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_sets_what_is_on_its_list_and_nothing_else() {
    for blender in blenders() {
        let bench = Bench::start(&blender).await;
        let worker = &bench.worker;
        worker.open(&blender.scene("small"), false, &Opening::default()).await.unwrap();
        let refuses = async |path: &str, value: serde_json::Value| code(worker.set(path, &value).await);
        for path in [
            "render.filepath",
            "render.ffmpeg.format",
            "render.bake.filepath",
            "cycles.device",
            "cycles.shading_system",
            "name",
            "objects",
            "world.name",
            "render",
            "render.bl_rna.name",
            "render.__class__",
            "cycles..samples",
            "sequence_editor.strips",
        ] {
            let code = refuses(path, json!(1)).await;
            assert!(code == "denied" || code == "not-found", "{path}: {code}");
        }
        assert_eq!(refuses("cycles.samples", json!(0)).await, "invalid-argument");
        assert_eq!(refuses("cycles.samples", json!(true)).await, "invalid-argument");
        assert_eq!(refuses("cycles.samples", json!([1, 2])).await, "invalid-argument");
        assert_eq!(refuses("render.engine", json!("POVRAY")).await, "invalid-argument");
        assert_eq!(refuses("render.resolution_percentage", json!(1.5)).await, "invalid-argument");
        assert_eq!(refuses("camera", json!(3)).await, "invalid-argument");
        assert_eq!(refuses("camera", json!("Cube")).await, "not-found");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_renders_parts_that_make_up_the_whole() {
    for blender in blenders() {
        let bench = Bench::start(&blender).await;
        let worker = &bench.worker;
        worker.open(&blender.scene("small"), false, &Opening::default()).await.unwrap();
        let shot = async |name: &str, region, samples| {
            let file = bench.folder.path().join(name);
            worker.shot(&Shot { frame: 1, region, samples, file: &file }).await.unwrap();
            Picture::read(&file)
        };
        let whole = shot("whole.exr", None, None).await;
        let part = shot("part.exr", Some(Region { x: 40, y: 20, width: 80, height: 45 }), None).await;
        assert_eq!((whole.size, part.size), ((160, 90), (80, 45)));
        let samples = |offset| Some(Samples { offset, count: 4, total: 8 });
        let (a, b) = (shot("a.exr", None, samples(0)).await, shot("b.exr", None, samples(4)).await);
        let value = |picture: &Picture, index: usize| f32::from_bits(picture.values[index]);
        let worst = (0..whole.values.len())
            .map(|index| (value(&whole, index) - (value(&a, index) + value(&b, index)) / 2.0).abs())
            .fold(0.0, f32::max);
        assert!(a.values != b.values && worst < 1e-4, "{worst}");
        // Nothing of a shot stays set.
        assert_eq!(worker.inspect().await.unwrap().samples, 8);
        assert_eq!(shot("once-more.exr", None, None).await.values, whole.values);
        worker.set("engine", &json!("WORKBENCH")).await.unwrap();
        let file = bench.folder.path().join("workbench.exr");
        let some = Shot { frame: 1, region: None, samples: samples(0), file: &file };
        assert_eq!(code(worker.shot(&some).await), "unsupported");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_developed_shot_looks_like_a_written_frame() {
    for blender in blenders() {
        let bench = Bench::start(&blender).await;
        let worker = &bench.worker;
        worker.open(&blender.scene("small"), false, &Opening::default()).await.unwrap();
        let image = bench.folder.path().join("shot.exr");
        worker.shot(&Shot { frame: 3, region: None, samples: None, file: &image }).await.unwrap();
        let directory = &bench.folder.path().join("developed");
        std::fs::create_dir_all(directory).unwrap();
        worker.develop(&Develop { image: &image, frame: 3, name: Some("dev_#"), directory }).await.unwrap();
        let developed = Picture::read(&directory.join("dev_3.png"));
        let written = Picture::read(&bench.write(3, "written").await);
        let apart = || developed.values.iter().zip(&written.values).map(|(a, b)| a.abs_diff(*b));
        let mean = f64::from(apart().sum::<u32>()) / written.values.len() as f64;
        // Blender dithers both, each with noise of its own.
        assert!(apart().max() <= Some(2) && mean < 0.75, "{:?} and on average {mean} of 255", apart().max());
        let names = worker.paths(&Paths { frame: 12, name: Some("x_####") }).await.unwrap();
        assert_eq!(names, [PathBuf::from("x_0012.png")]);
        // A shot has one view, also of a scene that has several.
        worker.open(&blender.scene("stereo"), false, &Opening::default()).await.unwrap();
        worker.shot(&Shot { frame: 3, region: None, samples: None, file: &image }).await.unwrap();
        let develop = Develop { image: &image, frame: 3, name: None, directory };
        assert_eq!(worker.develop(&develop).await.unwrap(), Path::new("eyes_0003.png"));
        assert!(Picture::read(&directory.join("eyes_0003.png")).shows_something());
        // What was refused is not set.
        worker.open(&blender.scene("hidden_gpu"), false, &Opening::default()).await.unwrap();
        assert_eq!(code(worker.set("engine", &json!("CYCLES")).await), "unsupported");
        assert_eq!(worker.inspect().await.unwrap().engine, "BLENDER_WORKBENCH");
        worker
            .open(&blender.scene("hidden_gpu"), false, &Opening { cpu: true, ..Opening::default() })
            .await
            .unwrap();
        worker.set("engine", &json!("CYCLES")).await.unwrap();
        // A scene that writes movies leaves pictures.
        worker.open(&blender.scene("movie"), false, &Opening::default()).await.unwrap();
        assert_eq!(worker.develop(&develop).await.unwrap(), Path::new("film_0003.png"));
        worker.write(&Write { frame: 1, name: None, directory, maker: MAKER }).await.unwrap();
        assert!(Picture::read(&directory.join("film_0001.png")).shows_something());
        assert!(worker.inspect().await.unwrap().is_movie);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_tells_how_far_it_is_and_lists_devices() {
    for blender in blenders() {
        let bench = Bench::start(&blender).await;
        let worker = &bench.worker;
        worker.open(&blender.scene("small"), false, &Opening::default()).await.unwrap();
        worker.set("cycles.samples", &json!(4096)).await.unwrap();
        let mut signs = worker.signs();
        let watching = tokio::spawn(async move {
            let far = |Progress { seconds, .. }: &Progress| *seconds >= 0.5;
            signs.wait_for(|signs| far(&signs.progress)).await.unwrap().progress.seconds
        });
        bench.write(1, "out").await;
        assert!(tokio::time::timeout(Duration::from_secs(2), watching).await.is_ok());
        let devices = worker.devices().await.unwrap();
        assert!(devices.as_array().unwrap().iter().any(|device| device["kind"] == "cpu"), "{devices}");
    }
}

/// The processors that a worker's Blender may run on.
fn processors(worker: &Worker) -> String {
    let program = worker.home().join("worker.py");
    let processes = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let blender = processes
        .filter(|process| {
            let command = std::fs::read(process.join("cmdline")).unwrap_or_default();
            let mut words = command.split(|byte| *byte == 0);
            words.next() != Some(PROGRAM.as_bytes())
                && words.any(|word| word == program.as_os_str().as_bytes())
        })
        .last()
        .unwrap();
    let status = std::fs::read_to_string(blender.join("status")).unwrap();
    status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap().trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_share_the_machine_share_no_processor() {
    // One processor cannot be divided, and a quota does not say which are ours.
    let machine = std::thread::available_parallelism().unwrap().get();
    let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap();
    let allowed = (0..CpuSet::count()).filter(|processor| allowed.is_set(*processor).unwrap()).count();
    let divided = machine > 1 && machine == allowed;
    let folder = tempfile::tempdir().unwrap();
    let launch = launch(&harness::installed(), folder.path());
    let seats = Seats::divide(2);
    let (here, there) = (seats.take(), seats.take());
    let (one, two) =
        tokio::join!(Worker::start(&launch, 1, &here, &[]), Worker::start(&launch, 2, &there, &[]));
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!(processors(&one) != processors(&two), divided);
    // One that was idle may find its place taken, and goes to another one.
    let before = processors(&one);
    one.sit(&there);
    assert_eq!(processors(&one), processors(&two));
    one.sit(&here);
    assert_eq!(processors(&one), before);
    let alone = Bench::start(&harness::installed()).await.worker;
    assert_eq!(processors(&alone) != processors(&one), divided, "a lone worker has them all");
    assert_eq!(processors(&alone) != processors(&two), divided, "a lone worker has them all");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_is_warm_starts_no_more_workers() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("a.db")).unwrap();
    let workers_folder = folder.path().join("workers");
    let limits = Limits { size: 2, warm: 0, budget: u64::MAX, renders: 100, growth: u64::MAX };
    let pool = Pool::new(launch(&harness::installed(), &workers_folder), limits, store);
    let workers = || std::fs::read_dir(&workers_folder).unwrap().count();
    let [scene, content] = ["/scenes/a.blend", "a"].map(str::to_owned);
    let (read, how) = (Vec::new(), Opening::default());
    let wanted = Wanted { scene: scene.into(), content, read, how };
    pool.warm_up(&wanted, 2).await.unwrap();
    assert_eq!(workers(), 2);
    pool.warm_up(&wanted, 2).await.unwrap();
    assert_eq!(workers(), 2);
    pool.stop().await;
}
