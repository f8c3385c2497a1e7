//! What the tests stand on: the program, Blenders, scenes and plugins.

use std::ffi::OsStr;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{LazyLock, OnceLock};

use serde_json::Value;
use tempfile::TempDir;

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_hotshoe");

/// Makes a command; tests may start what they like. Nothing of the person who
/// runs the tests is touched.
#[expect(clippy::disallowed_methods, reason = "tests start programs")]
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env("HOTSHOE_DATA", shared_data()).env_remove("HOTSHOE_BLENDER").env_remove("HOTSHOE_SOCKET");
    // No host and no configuration of the person who runs the tests.
    command.env("XDG_RUNTIME_DIR", shared_data()).env("XDG_CONFIG_HOME", shared_data());
    command
}

/// The root of the repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// A data directory that all runs of the tests share, so that Blender is
/// installed once.
fn shared_data() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("data")
}

/// A Blender to test with.
#[derive(Debug, Clone)]
pub(crate) struct Blender {
    pub path: PathBuf,
    pub is_module: bool,
    scenes: &'static OnceLock<PathBuf>,
}

/// The Blender that Hotshoe installs: every test can count on it.
pub(crate) fn installed() -> Blender {
    static PATH: LazyLock<PathBuf> = LazyLock::new(|| {
        let output = command(PROGRAM).args(["blender", "install"]).output().unwrap();
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "the tests need a Blender and none can be had: {log}");
        PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
    });
    static SCENES: OnceLock<PathBuf> = OnceLock::new();
    Blender { path: PATH.clone(), is_module: true, scenes: &SCENES }
}

/// The Blender of this machine, if it has one; CI says that it must.
pub(crate) fn on_path() -> Option<Blender> {
    static SCENES: OnceLock<PathBuf> = OnceLock::new();
    let found = hotshoe::blender::find::on_path("blender");
    let required = std::env::var_os("HOTSHOE_TEST_SYSTEM_BLENDER").is_some();
    assert!(found.is_some() || !required, "HOTSHOE_TEST_SYSTEM_BLENDER is set and no blender is on PATH");
    found.map(|path| Blender { path, is_module: false, scenes: &SCENES })
}

/// All Blenders to test with.
pub(crate) fn blenders() -> impl Iterator<Item = Blender> {
    [Some(installed()), on_path()].into_iter().flatten()
}

impl Blender {
    /// A command that runs a Python file in this Blender.
    pub(crate) fn python(&self, file: &Path) -> Command {
        let mut run = command(&self.path);
        if !self.is_module {
            run.args(["--background", "--factory-startup", "--python-exit-code", "1", "--python"]);
        }
        run.arg(file);
        run
    }

    /// Its version, such as `[4, 5, 15]`.
    pub(crate) fn version(&self) -> Vec<u32> {
        let mut list = command(PROGRAM);
        let output = list.args(["blender", "list", "--json", "--blender"]).arg(&self.path).output().unwrap();
        let first: Value =
            serde_json::Deserializer::from_slice(&output.stdout).into_iter().next().unwrap().unwrap();
        first["version"].as_str().unwrap().split(['.', ' ']).map_while(|part| part.parse().ok()).collect()
    }

    /// The path of a scene of `tests/fixtures/scenes.py`, made by this Blender.
    pub(crate) fn scene(&self, name: &str) -> PathBuf {
        let folder = self.scenes.get_or_init(|| {
            let kind = if self.is_module { "module" } else { "program" };
            let folder =
                Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("scenes-{kind}-{}", std::process::id()));
            std::fs::create_dir_all(&folder).unwrap();
            let script = root().join("tests/fixtures/scenes.py");
            let output = self.python(&script).arg("--").arg(&folder).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            folder
        });
        folder.join(format!("{name}.blend"))
    }

    /// Lets this Blender alone render frames into the files that the scene names; without frames,
    /// all of the scene's own.
    pub(crate) fn render_plainly(&self, scene: &Path, frames: &[i32]) {
        let frames: Vec<String> = frames.iter().map(i32::to_string).collect();
        let mut run = match self.is_module {
            true => self.python(&root().join("tests/fixtures/plain.py")),
            false => command(&self.path),
        };
        if self.is_module {
            run.arg(scene).args(&frames);
        } else {
            run.args(["--background", "--factory-startup"]).arg(scene);
            match frames.is_empty() {
                true => run.arg("--render-anim"),
                false => run.args(["--render-frame", &frames.join(",")]),
            };
        }
        let output = run.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// The component of `tests/fixtures/probe`.
pub(crate) fn probe() -> &'static Path {
    static BUILT: LazyLock<PathBuf> =
        LazyLock::new(|| component(&["--profile", "plugin", "--package", "probe"]).join("plugin/probe.wasm"));
    &BUILT
}

/// The ways in which the probe is built: the contract holds for each of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Component,
    Process,
    Python,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Component, Self::Process, Self::Python];

    /// The probe, as a renderer is named.
    pub(crate) fn probe(self) -> &'static Path {
        static PROCESS: LazyLock<PathBuf> = LazyLock::new(|| {
            let built = native(&["--package", "probe", "--bin", "probe-process"]);
            let files = [(built.join("debug/probe-process"), "probe-process")];
            plugin("probe-process", &files, &|text| {
                text.replace(r#""python3", "main.py""#, r#""./probe-process""#)
            })
        });
        static PYTHON: LazyLock<PathBuf> = LazyLock::new(|| {
            let main = root().join("tests/fixtures/probe/main.py");
            let folder = plugin("probe-python", &[(main, "main.py")], &str::to_owned);
            with_package(&folder);
            folder
        });
        match self {
            Self::Component => probe(),
            Self::Process => &PROCESS,
            Self::Python => &PYTHON,
        }
    }
}

/// The renderer `direct` as a process.
pub(crate) fn direct_process() -> &'static Path {
    static BUILT: LazyLock<PathBuf> = LazyLock::new(|| {
        let built = native(&["--package", "direct", "--bin", "direct-process"]);
        let change = |text: &str| {
            let text = text.replace(r#""python3", "main.py""#, r#""./direct-process""#);
            text.replace("\"probe\"", "\"direct\"").replace("1.2.3", env!("CARGO_PKG_VERSION"))
        };
        plugin("direct-process", &[(built.join("debug/direct-process"), "direct-process")], &change)
    });
    &BUILT
}

/// Makes the folder of a plugin, with the probe's manifest, changed.
fn plugin(name: &str, files: &[(PathBuf, &str)], change: &dyn Fn(&str) -> String) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    let manifest = std::fs::read_to_string(root().join("tests/fixtures/probe/plugin.toml")).unwrap();
    std::fs::write(folder.join("plugin.toml"), change(&manifest)).unwrap();
    for (from, name) in files {
        std::fs::copy(from, folder.join(name)).unwrap();
    }
    folder
}

/// Puts the Python package beside a plugin.
pub(crate) fn with_package(folder: &Path) {
    let package = root().join("plugin-api/python/src/hotshoe");
    std::fs::create_dir_all(folder.join("hotshoe")).unwrap();
    for file in files_below(&package).iter().filter(|name| name.ends_with(".py") && !name.contains('/')) {
        std::fs::copy(package.join(file), folder.join("hotshoe").join(file)).unwrap();
    }
}

/// The target that components are built for.
const COMPONENTS: &str = "wasm32-wasip2";

/// Builds with cargo, and returns the folder of its profiles. All builds share one target folder,
/// so that what they have in common is built once.
fn native(arguments: &[&str]) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fixtures");
    let mut cargo = command(env!("CARGO"));
    cargo.current_dir(root()).arg("build").args(arguments).env_remove("RUSTFLAGS");
    cargo.arg("--target-dir").arg(&target);
    let output = cargo.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    target
}

/// Builds a component with cargo, and returns the folder of its profiles.
pub(crate) fn component(arguments: &[&str]) -> PathBuf {
    add_target();
    native(&[arguments, &["--target", COMPONENTS]].concat()).join(COMPONENTS)
}

/// Adds the target of components to the toolchain: `cargo run` does without it, so it may be absent.
pub(crate) fn add_target() {
    static ADDED: LazyLock<()> = LazyLock::new(|| {
        let sysroot = command("rustc").args(["--print", "sysroot"]).current_dir(root()).output().unwrap();
        let sysroot = PathBuf::from(String::from_utf8(sysroot.stdout).unwrap().trim());
        if sysroot.join("lib/rustlib").join(COMPONENTS).exists() {
            return;
        }
        let added = command("rustup").args(["target", "add", COMPONENTS]).current_dir(root()).output();
        let hint = format!("the tests build components for {COMPONENTS}: install that target of Rust first");
        let added = added.unwrap_or_else(|error| panic!("{hint} (rustup: {error})"));
        assert!(added.status.success(), "{hint}\n{}", String::from_utf8_lossy(&added.stderr));
    });
    LazyLock::force(&ADDED);
}

/// One run of `hotshoe render` in a folder of its own.
pub(crate) struct Render {
    pub folder: TempDir,
    pub command: Command,
}

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Render {
    /// Prepares to render a scene with the installed Blender.
    pub(crate) fn new(scene: &Path) -> Self {
        Self::with(&installed(), scene)
    }

    /// Prepares to render a scene with a Blender.
    pub(crate) fn with(blender: &Blender, scene: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = command(PROGRAM);
        command.arg("render").arg(scene);
        command.arg("--blender").arg(&blender.path).arg("--out").arg(folder.path().join("out"));
        Self { folder, command }
    }

    /// Prepares to let the probe act.
    pub(crate) fn probe(act: &str) -> Self {
        Self::probe_as(Kind::Component, act)
    }

    /// Prepares to let the probe act, built in a certain way.
    pub(crate) fn probe_as(kind: Kind, act: &str) -> Self {
        let probe = kind.probe().to_str().unwrap();
        Self::new(&installed().scene("small")).args(["--renderer", probe]).set("act", act)
    }

    pub(crate) fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    pub(crate) fn frames(self, frames: &str) -> Self {
        self.args(["--frames", frames])
    }

    pub(crate) fn set(self, name: &str, value: &str) -> Self {
        self.args(["--set".to_owned(), format!("{name}={value}")])
    }

    /// Where its files go.
    pub(crate) fn out(&self) -> PathBuf {
        self.folder.path().join("out")
    }

    pub(crate) fn run(&mut self) -> Ended {
        Ended::from(self.command.output().unwrap())
    }

    /// Names all files in the output folder.
    pub(crate) fn files(&self) -> Vec<String> {
        files_below(&self.out())
    }
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

impl Ended {
    /// Fails unless the program ended with this exit code.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self
    }

    /// Fails unless all parts stand in what was told.
    #[track_caller]
    pub(crate) fn tells(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(self.stderr.contains(part), "'{part}' is not told: {self:#?}");
        }
        self
    }

    /// Reads the lines of `--json`.
    pub(crate) fn events(&self) -> Vec<Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// All processes below one, as the kernel tells.
pub(crate) fn below(parent: i32) -> Vec<i32> {
    let mut found = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten() {
        let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|pid| pid.parse().ok()) {
            found.push(child);
            found.extend(below(child));
        }
    }
    found
}

/// Whether a process is more than a memory of one.
pub(crate) fn is_alive(pid: &i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// Names all files below a folder, sorted, hidden ones too.
pub(crate) fn files_below(folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).into_iter().flatten() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => names.push(path.strip_prefix(folder).unwrap().display().to_string()),
            }
        }
    }
    names.sort();
    names
}

/// The pixels of a picture: its size, and 16 bits a channel for PNG, 32 for OpenEXR.
#[derive(PartialEq)]
pub(crate) struct Picture {
    pub size: (usize, usize),
    pub values: Vec<u32>,
}

impl Picture {
    pub(crate) fn read(path: &Path) -> Self {
        match path.extension().and_then(OsStr::to_str) {
            Some("exr") => Self::read_exr(path),
            _ => Self::read_png(path),
        }
    }

    fn read_png(path: &Path) -> Self {
        let file = std::io::BufReader::new(std::fs::File::open(path).unwrap());
        let mut reader = png::Decoder::new(file).read_info().unwrap();
        let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut bytes).unwrap();
        let size = (info.width as usize, info.height as usize);
        let values = match info.bit_depth {
            png::BitDepth::Sixteen => {
                bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).collect()
            }
            _ => bytes.iter().map(|&byte| u32::from(byte)).collect(),
        };
        Self { size, values }
    }

    fn read_exr(path: &Path) -> Self {
        use exr::prelude::*;
        let image = read_all_flat_layers_from_file(path).unwrap();
        let size = image.layer_data[0].size;
        let channels = image.layer_data.iter().flat_map(|layer| &layer.channel_data.list);
        let values = channels.flat_map(|channel| channel.sample_data.values_as_f32().map(f32::to_bits));
        Self { size: (size.width(), size.height()), values: values.collect() }
    }

    /// Whether the picture is more than one flat colour.
    pub(crate) fn shows_something(&self) -> bool {
        self.values.chunks(4).any(|pixel| pixel != &self.values[..pixel.len()])
    }
}

/// Fails unless both files hold the same pixels.
#[track_caller]
pub(crate) fn assert_same_pixels(ours: &Path, theirs: &Path) {
    let different = different_values(ours, theirs);
    assert_eq!(different, 0, "values of {} are not those of {}", ours.display(), theirs.display());
}

/// Counts the values in which two files of the same size differ.
#[track_caller]
pub(crate) fn different_values(ours: &Path, theirs: &Path) -> usize {
    let (a, b) = (Picture::read(ours), Picture::read(theirs));
    assert_eq!(a.size, b.size, "{} {}", ours.display(), theirs.display());
    assert_eq!(a.values.len(), b.values.len(), "{} {}", ours.display(), theirs.display());
    a.values.iter().zip(&b.values).filter(|(a, b)| a != b).count()
}

/// Runs a command at a terminal, and returns all that it shows; nothing where there
/// are no terminals.
pub(crate) fn at_a_terminal(command: &mut Command) -> Option<String> {
    let size = nix::pty::Winsize { ws_row: 40, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 };
    let Ok(terminal) = nix::pty::openpty(&size, None) else {
        eprintln!("not tested: this machine gives no pseudo-terminal; is /dev/pts mounted?");
        return None;
    };
    let mut child =
        command.env("TERM", "xterm").stdout(Stdio::null()).stderr(terminal.slave).spawn().unwrap();
    // Its end of the terminal must be the only one that is left.
    command.stderr(Stdio::null());
    let mut screen = Vec::new();
    let mut chunk = [0; 4096];
    let mut master = std::fs::File::from(terminal.master);
    // A terminal that nobody writes to any more ends in an error.
    while let Ok(1..) = master.read(&mut chunk).inspect(|&read| screen.extend_from_slice(&chunk[..read])) {}
    assert!(child.wait().unwrap().success());
    Some(String::from_utf8_lossy(&screen).into_owned())
}
