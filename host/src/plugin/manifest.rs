//! `plugin.toml`: what a folder says of the plugin that it holds.
//!
//! ```toml
//! name = "contact-sheet"
//! version = "0.3.1"
//! api = "0.1.0"
//! command = ["python3", "main.py"]
//! capabilities = ["blender", "image"]
//! tasks = 4
//!
//! [process]
//! network = false
//! devices = []
//! read = []
//! ```

use std::fs::{self, File};
use std::io::Read;
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use semver::Version;
use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::bindings::v0_1::{API, is_near};
use crate::process::sandbox::RUNTIME;
use crate::terms::Capability;

/// The name of the file.
pub const FILE: &str = "plugin.toml";
/// Where a command without a path is looked for; also what the process is given.
pub const PATH: &str = "/usr/local/bin:/usr/bin:/bin";
/// The largest manifest that is read, in bytes.
const MAX_SIZE: u64 = 64 * 1024;
/// How many tasks one process may take at a time.
const MAX_TASKS: u32 = 256;
/// What its command is.
const COMMAND: &str = "command: a list of a program and its arguments, such as [\"python3\", \"main.py\"]";
/// What the name of a plugin is.
pub const NAME: &str = "1 to 64 of a-z 0-9 -, beginning with a letter";
/// How much of a script tells its interpreter, in bytes.
const FIRST_LINE: u64 = 256;

/// What a plugin is, and how it is run.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: Version,
    /// The version of the contract that it is written for.
    pub api: Version,
    /// What is run, with its arguments.
    pub command: Vec<String>,
    /// What it wants of the host.
    pub capabilities: Vec<Capability>,
    /// How many tasks one process takes at a time; none gets one of its own if absent.
    pub tasks: Option<u32>,
    /// What it needs beside the contract.
    pub process: Needs,
}

/// What a plugin's process needs beside the contract; `[process]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Needs {
    /// Whether it uses the network.
    pub network: bool,
    /// Device nodes that it opens.
    pub devices: Vec<PathBuf>,
    /// Files and folders that it reads.
    pub read: Vec<PathBuf>,
}

/// Why a folder holds no plugin that can be run.
#[derive(Debug, thiserror::Error)]
#[error("{}{}: {what}", path.display(), line.map(|line| format!(":{line}")).unwrap_or_default())]
pub struct ManifestError {
    path: PathBuf,
    line: Option<usize>,
    what: String,
}

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: Spanned<String>,
    version: Spanned<String>,
    api: Spanned<String>,
    command: Spanned<Vec<String>>,
    #[serde(default)]
    capabilities: Vec<Capability>,
    tasks: Option<Spanned<u32>>,
    process: Option<Spanned<Needs>>,
}

impl Manifest {
    /// Reads the manifest of a folder.
    pub fn read(folder: &Path) -> Result<Self, ManifestError> {
        let path = folder.join(FILE);
        let failed = |what: String| ManifestError { path: path.clone(), line: None, what };
        let unread = |error: std::io::Error| failed(error.to_string());
        let other = || Err(failed(format!("it is no file of at most {MAX_SIZE} bytes")));
        // Before it is opened: a pipe would wait for whoever writes it.
        match fs::metadata(&path) {
            Ok(info) if info.is_file() => {}
            Ok(_) => return other(),
            Err(_) if folder.join("Cargo.toml").exists() => {
                let what = "there is none, and so this is no plugin but a crate\n\
                            build it with --target wasm32-wasip2, and give the .wasm file";
                return Err(failed(what.to_owned()));
            }
            Err(error) => return Err(unread(error)),
        }
        let (file, mut text) = (File::open(&path).map_err(unread)?, String::new());
        match file.take(MAX_SIZE + 1).read_to_string(&mut text).map_err(unread)? as u64 {
            0..=MAX_SIZE => Self::parse(&text, &path),
            _ => other(),
        }
    }

    /// Reads a manifest; `path` is for what is said about it.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ManifestError> {
        let at = |span: Range<usize>, what: String| {
            let line = text.get(..span.start).map(|before| before.matches('\n').count() + 1);
            ManifestError { path: path.to_owned(), line, what }
        };
        let written: Written = toml::from_str(text).map_err(|error| {
            let span = error.span().unwrap_or_default();
            let what = match key_at(text, span.start) {
                Some(key) if key == "command" => COMMAND.to_owned(),
                Some(key) => format!("{key}: {}", error.message()),
                None => error.message().to_owned(),
            };
            at(span, what)
        })?;
        let Written { name, version, api, command, capabilities, tasks, process } = written;
        if !is_name(name.get_ref()) {
            return Err(at(name.span(), format!("name: {NAME}")));
        }
        let version = Version::parse(version.get_ref()).map_err(|_| {
            let what = format!("version: '{}' is no version such as 1.2.0 or 2.0.0-rc.1", version.get_ref());
            at(version.span(), what)
        })?;
        let api = match Version::parse(api.get_ref()) {
            Ok(wanted) if is_near(&wanted) && wanted <= API => wanted,
            Ok(wanted) => {
                let what = format!(
                    "api: it is written for API {wanted}, this host serves API {API}\n\
                     write the one it serves, or use another Hotshoe"
                );
                return Err(at(api.span(), what));
            }
            Err(_) => {
                let what = format!("api: '{}' is no version such as {API}", api.get_ref());
                return Err(at(api.span(), what));
            }
        };
        if command.get_ref().iter().any(|part| part.contains('\0'))
            || command.get_ref().first().is_none_or(String::is_empty)
        {
            return Err(at(command.span(), COMMAND.to_owned()));
        }
        if let Some(tasks) = &tasks
            && !(1..=MAX_TASKS).contains(tasks.get_ref())
        {
            let what = format!("tasks: 1 to {MAX_TASKS}, not {}", tasks.get_ref());
            return Err(at(tasks.span(), what));
        }
        let needs = process.as_ref().map(Spanned::get_ref);
        let mut paths = needs.into_iter().flat_map(|needs| needs.devices.iter().chain(&needs.read));
        let climbs = |path: &&PathBuf| path.components().any(|part| part == Component::ParentDir);
        if let Some(path) = paths.find(|path| !path.is_absolute() || climbs(path)) {
            let what = format!("process: {} is no path from the root without ..", path.display());
            return Err(at(process.as_ref().map(Spanned::span).unwrap_or_default(), what));
        }
        Ok(Self {
            name: name.into_inner(),
            version,
            api,
            command: command.into_inner(),
            capabilities,
            tasks: tasks.map(Spanned::into_inner),
            process: process.map(Spanned::into_inner).unwrap_or_default(),
        })
    }

    /// Finds the program that is run, for a plugin that lies in `folder`.
    pub fn program(&self, folder: &Path) -> Result<PathBuf, String> {
        let name = &self.command[0];
        let found = match name.contains('/') {
            true => Some(folder.join(name)),
            false => std::env::split_paths(PATH).map(|place| place.join(name)).find(|path| path.is_file()),
        };
        let program = found.ok_or_else(|| format!("there is no command '{name}' in {PATH}"))?;
        self.check_program(&program, folder)?;
        Ok(program)
    }

    fn check_program(&self, program: &Path, folder: &Path) -> Result<(), String> {
        let shown = program.display();
        let info = fs::metadata(program).map_err(|error| format!("its command {shown}: {error}"))?;
        if !info.is_file() || info.permissions().mode() & 0o111 == 0 {
            return Err(format!(
                "its command {shown} is not executable\nmake it so: chmod +x {}",
                self.command[0]
            ));
        }
        let place = program.canonicalize().map_err(|error| format!("its command {shown}: {error}"))?;
        let readable = [folder].into_iter().chain(self.process.read.iter().map(PathBuf::as_path));
        let mut readable = readable.chain(RUNTIME.iter().map(Path::new));
        if !readable.any(|granted| place.starts_with(granted.canonicalize().unwrap_or(granted.to_owned()))) {
            return Err(format!(
                "its command {shown} is {}, which it may not read\n\
                 name its folder as `read` under [process] in {FILE}, and grant it",
                place.display()
            ));
        }
        match interpreter(program) {
            Some(interpreter) if !interpreter.is_file() => Err(format!(
                "its command {shown} wants the interpreter {}, which is not there",
                interpreter.display()
            )),
            _ => Ok(()),
        }
    }
}

/// Whether a text is a [`NAME`].
pub fn is_name(text: &str) -> bool {
    let is_harmless = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    text.starts_with(|c: char| c.is_ascii_lowercase()) && text.len() <= 64 && text.chars().all(is_harmless)
}

/// Returns the key that has its value at a place of a text.
fn key_at(text: &str, place: usize) -> Option<String> {
    fn find(table: &DeTable, place: usize) -> Option<String> {
        table.iter().find_map(|(key, value)| match value.get_ref() {
            DeValue::Table(below) => find(below, place).map(|last| format!("{}.{last}", key.get_ref())),
            _ => value.span().contains(&place).then(|| key.get_ref().to_string()),
        })
    }
    find(DeTable::parse(text).ok()?.get_ref(), place)
}

/// Returns the interpreter that a script names.
fn interpreter(program: &Path) -> Option<PathBuf> {
    let mut start = Vec::new();
    File::open(program).ok()?.take(FIRST_LINE).read_to_end(&mut start).ok()?;
    let line = start.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let path = std::str::from_utf8(line).ok()?.split_whitespace().next()?;
    Some(PathBuf::from(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str =
        "name = \"sheet\"\nversion = \"1.2.0\"\napi = \"0.1.0\"\ncommand = [\"sh\", \"run\"]\n";

    #[test]
    fn a_manifest_needs_little() {
        let manifest = Manifest::parse(GOOD, Path::new(FILE)).unwrap();
        assert_eq!((manifest.name.as_str(), &manifest.version), ("sheet", &Version::new(1, 2, 0)));
        assert!(manifest.capabilities.is_empty() && manifest.tasks.is_none());
        assert_eq!(manifest.process, Needs::default());
        assert_eq!(manifest.program(Path::new("/")).unwrap(), Path::new("/usr/bin/sh"));
    }

    #[test]
    fn what_does_not_fit_is_told_with_file_line_and_key() {
        let check = |from: &str, to: &str, expected: &str| {
            let error = Manifest::parse(&GOOD.replace(from, to), Path::new(FILE)).unwrap_err();
            assert!(error.to_string().starts_with(expected), "{to}: {error}");
        };
        check("\"sheet\"", "\"Sheet\"", "plugin.toml:1: name:");
        check("\"sheet\"", "\"../x\"", "plugin.toml:1: name:");
        check("\"sheet\"", "7", "plugin.toml:1: name: ");
        check("1.2.0", "1.2", "plugin.toml:2: version:");
        check("0.1.0", "0.2.0", "plugin.toml:3: api: it is written for API 0.2.0");
        check("0.1.0", "0.1.1", "plugin.toml:3: api:");
        check("[\"sh\", \"run\"]", "[]", "plugin.toml:4: command:");
        check("[\"sh\", \"run\"]", "\"sh\"", "plugin.toml:4: command: ");
        check("command = [\"sh\", \"run\"]\n", "", "plugin.toml:1: missing field `command`");
        check("api", "apy", "plugin.toml:3: unknown field `apy`");
        check("command", "tasks = 0\ncommand", "plugin.toml:4: tasks:");
        check(
            "command",
            "capabilities = [\"blendr\"]\ncommand",
            "plugin.toml:4: capabilities: unknown variant",
        );
        check("command", "process.read = [\n7]\ncommand", "plugin.toml:5: process.read: ");
        check("command", "process = { read = [\"x\"] }\ncommand", "plugin.toml:4: process:");
        check("command", "process = { read = [\"/opt/../root\"] }\ncommand", "plugin.toml:4: process:");
        check("command", "process = { net = true }\ncommand", "plugin.toml:4: unknown field `net`");
    }

    #[test]
    fn a_command_that_cannot_be_run_is_told_with_its_path() {
        let temp = tempfile::tempdir().unwrap();
        let folder = temp.path().canonicalize().unwrap();
        let program = |command: &str| {
            let text = GOOD.replace("[\"sh\", \"run\"]", &format!("[{command:?}]"));
            Manifest::parse(&text, Path::new(FILE)).unwrap().program(&folder)
        };
        let write = |name: &str, text: &str, mode| {
            fs::write(folder.join(name), text).unwrap();
            fs::set_permissions(folder.join(name), PermissionsExt::from_mode(mode)).unwrap();
        };
        assert!(
            program("no-such-command").unwrap_err().contains("no command 'no-such-command' in /usr/local")
        );
        assert!(program("./run").unwrap_err().contains("/./run: No such file"));
        write("run", "#!/bin/sh\n", 0o644);
        assert!(program("./run").unwrap_err().contains("is not executable"));
        write("run", "#!/no/such/python3 -u\n", 0o755);
        assert!(program("./run").unwrap_err().contains("wants the interpreter /no/such/python3"));
        write("run", "#!/bin/sh\n", 0o755);
        assert_eq!(program("./run").unwrap(), folder.join("./run"));
        let elsewhere = tempfile::tempdir().unwrap();
        let outside = elsewhere.path().join("run");
        fs::copy(folder.join("run"), &outside).unwrap();
        assert!(program(outside.to_str().unwrap()).unwrap_err().contains("which it may not read"));
    }
}
