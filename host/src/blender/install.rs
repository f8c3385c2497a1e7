//! Installs a Blender of Hotshoe's own: the `bpy` wheel in a private environment.
//!
//! Owns the folder of installed Blenders. A half-made one is never seen: it is
//! made aside, checked, and renamed.

use std::ffi::OsStr;
use std::io::{Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::Uid;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};

use super::libraries::Missing;
use super::tool::{ask, command, failed};
use super::{Blender, BlenderError, find};
use crate::config::{DataDir, create_private};

/// What to install.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// `4.5` or `4.5.15`; the long-term release that fits a Python here if absent.
    pub version: Option<String>,
    /// Whether to install system packages that are missing, through sudo if need be.
    pub with_deps: bool,
}

/// How far an installation is.
#[derive(Debug, Clone)]
pub enum Step {
    /// Something new is being done.
    Doing(String),
    /// A download is under way: bytes done and in all.
    Download(u64, u64),
}

/// Long-term releases, and the only Python that their wheels fit.
const LONG_TERM: [(&str, &str); 2] = [("4.5", "3.11"), ("5.2", "3.13")];
/// A Python of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Python {
    /// The program.
    pub path: PathBuf,
    /// `3.11`
    pub version: String,
}

/// Installs a Blender, telling `progress` how far it is, and returns it.
pub async fn install(
    request: &Request,
    data: &DataDir,
    progress: &mut (dyn FnMut(Step) + Send),
) -> Result<Blender, BlenderError> {
    let blenders = data.blenders();
    create_private(&blenders).map_err(BlenderError::io("make the folder of Blenders"))?;
    let (wanted, python) = choose(request.version.as_deref(), &pythons().await)?;
    let _lock = lock(&blenders.join("lock"), progress).await?;
    if let Some(there) = already(&wanted, data) {
        ready(there.path(), request, progress).await?;
        return Ok(there);
    }
    let partial = blenders.join(format!("{wanted}.partial"));
    remove(&partial)?;
    progress(Step::Doing(format!("making an environment with Python {}", python.version)));
    make_environment(&python, &partial, request, progress).await?;
    progress(Step::Doing(format!("fetching Blender {wanted}")));
    fetch(&partial.join("bin/python"), &wanted, progress).await?;
    let version =
        ask(&partial.join("bin/python"), "from importlib.metadata import version as v; print(v('bpy'))")
            .await;
    let version = version.map_err(|log| failed("the bpy wheel was not installed", &log))?;
    ready(&partial.join("bin/python"), request, progress).await?;
    let home = blenders.join(version);
    remove(&home)?;
    std::fs::rename(&partial, &home).map_err(BlenderError::io("put the new Blender in its place"))?;
    Ok(Blender::Module(home.join("bin/python")))
}

/// Lists the Pythons of this machine that could hold a `bpy` wheel.
pub async fn pythons() -> Vec<Python> {
    let names = LONG_TERM.iter().map(|(_, python)| format!("python{python}")).chain(["python3".to_owned()]);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut found: Vec<Python> = Vec::new();
    for name in names {
        for folder in std::env::split_paths(&path) {
            let path = folder.join(&name);
            if !path.is_file() {
                continue;
            }
            // A stand-in that starts no Python (such as pyenv's) answers with an error.
            let version = ask(&path, "import sys; print('%d.%d' % sys.version_info[:2])").await;
            if let Ok(version) = version
                && !found.iter().any(|python| python.version == version)
            {
                found.push(Python { path, version });
            }
        }
    }
    found
}

/// Decides which wheel goes into which Python.
fn choose(version: Option<&str>, pythons: &[Python]) -> Result<(String, Python), BlenderError> {
    let has = |wanted: &str| pythons.iter().find(|python| python.version == wanted).cloned();
    let have = pythons.iter().map(|python| python.version.as_str()).collect::<Vec<_>>().join(", ");
    let have = if have.is_empty() { "none".to_owned() } else { have };
    let Some(version) = version else {
        let fit = LONG_TERM.iter().find_map(|(blender, python)| Some(((*blender).to_owned(), has(python)?)));
        return fit.ok_or_else(|| BlenderError::Missing {
            what: format!("no Blender can be installed: that takes Python 3.11 or 3.13, and here is {have}"),
            hint: "install Python 3.11 or 3.13 (Debian and Ubuntu: apt install python3 python3-venv), \
                   or Blender itself (apt install blender), or name one with --blender PATH"
                .to_owned(),
        });
    };
    let python = python_for(version).ok_or_else(|| BlenderError::Missing {
        what: format!("'{version}' is no version of Blender that comes as a wheel"),
        hint: "say for example 4.5 or 5.2, or 4.5.15".to_owned(),
    })?;
    has(python).map(|python| (version.to_owned(), python)).ok_or_else(|| BlenderError::Missing {
        what: format!("Blender {version} takes Python {python}, and here is {have}"),
        hint: format!("install Python {python}, or another version of Blender: hotshoe blender install"),
    })
}

/// Returns the Python that a Blender is built for.
fn python_for(version: &str) -> Option<&'static str> {
    let numbers: Vec<u32> = version.split('.').map(|number| number.parse().ok()).collect::<Option<_>>()?;
    let &[major, minor] = numbers.get(..2)? else { return None };
    match (major, minor) {
        _ if numbers.len() > 3 => None,
        (4, 1..) | (5, 0) => Some("3.11"),
        (5, 1..) => Some("3.13"),
        _ => None,
    }
}

/// Returns an installed Blender that is the one wanted.
fn already(wanted: &str, data: &DataDir) -> Option<Blender> {
    find::installed(data).into_iter().find(|blender| {
        let version = blender.path().parent().and_then(Path::parent).and_then(Path::file_name);
        let version = version.and_then(OsStr::to_str).unwrap_or_default();
        version == wanted || version.starts_with(&format!("{wanted}."))
    })
}

async fn make_environment(
    python: &Python,
    home: &Path,
    request: &Request,
    progress: &mut (dyn FnMut(Step) + Send),
) -> Result<(), BlenderError> {
    if ask(&python.path, "import ensurepip, venv").await.is_err() {
        let packages = vec![format!("python{}-venv", python.version)];
        install_packages(&Missing { packages, ..Missing::default() }, request, progress).await?;
    }
    let made = command(&python.path).args(["-m", "venv"]).arg(home).output().await;
    let made = made.map_err(BlenderError::io("run Python"))?;
    if !made.status.success() {
        let log = [made.stdout, made.stderr].concat();
        return Err(failed("Python cannot make an environment", &String::from_utf8_lossy(&log)));
    }
    // An old pip cannot tell how far a download is; that is no reason to give up.
    let newer = ["-m", "pip", "install", "--quiet", "--upgrade", "pip"];
    let _ = command(home.join("bin/python")).args(newer).output().await;
    Ok(())
}

async fn fetch(
    python: &Path,
    version: &str,
    progress: &mut (dyn FnMut(Step) + Send),
) -> Result<(), BlenderError> {
    let wheel =
        if version.split('.').count() > 2 { format!("bpy=={version}") } else { format!("bpy=={version}.*") };
    let mut pip = command(python);
    pip.args([
        "-m",
        "pip",
        "install",
        "--progress-bar",
        "raw",
        "--no-input",
        "--only-binary",
        ":all:",
        &wheel,
    ]);
    let mut child = pip.spawn().map_err(BlenderError::io("run pip"))?;
    let (output, errors) = (child.stdout.take(), child.stderr.take());
    let errors = tokio::spawn(async move {
        let mut text = String::new();
        if let Some(mut errors) = errors {
            let _ = errors.read_to_string(&mut text).await;
        }
        text
    });
    if let Some(output) = output {
        let mut lines = BufReader::new(output).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            match line.strip_prefix("Progress ").and_then(|rest| rest.split_once(" of ")) {
                Some((done, all)) => {
                    progress(Step::Download(done.parse().unwrap_or(0), all.trim().parse().unwrap_or(0)));
                }
                None if line.starts_with("Installing") => {
                    progress(Step::Doing("unpacking Blender".to_owned()))
                }
                None => tracing::debug!("pip: {line}"),
            }
        }
    }
    let status = child.wait().await.map_err(BlenderError::io("run pip"))?;
    if !status.success() {
        return Err(failed(&format!("pip cannot install {wheel}"), &errors.await.unwrap_or_default()));
    }
    Ok(())
}

/// Makes sure that the Blender starts, and installs what it misses if it may.
async fn ready(
    python: &Path,
    request: &Request,
    progress: &mut (dyn FnMut(Step) + Send),
) -> Result<(), BlenderError> {
    progress(Step::Doing("checking that Blender starts".to_owned()));
    let missing = Missing::find(python).await?;
    if !missing.is_empty() {
        install_packages(&missing, request, progress).await?;
    }
    // Blender as a module may hang in its own exit.
    let import = "import bpy, os; print(bpy.app.version_string, flush=True); os._exit(0)";
    ask(python, import).await.map_err(|log| failed("the new Blender does not start", &log))?;
    Ok(())
}

async fn install_packages(
    missing: &Missing,
    request: &Request,
    progress: &mut (dyn FnMut(Step) + Send),
) -> Result<(), BlenderError> {
    let is_root = Uid::effective().is_root();
    let may = find::on_path("apt-get").is_some() && (is_root || request.with_deps);
    if !may || !missing.libraries.is_empty() {
        let hint = if missing.libraries.is_empty() {
            "\nor let Hotshoe do it: hotshoe blender install --with-deps"
        } else {
            ""
        };
        return Err(BlenderError::Missing {
            what: "Blender needs libraries or packages of the system that are missing".to_owned(),
            hint: format!("{missing}{hint}"),
        });
    }
    let list = missing.packages.join(" ");
    progress(Step::Doing(format!("installing system packages: {list}")));
    let apt = |arguments: &[&str]| {
        let mut apt = if is_root { command("apt-get") } else { command("sudo") };
        if !is_root {
            apt.arg("apt-get");
        }
        apt.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
        apt
    };
    // Old lists may do; the installation itself tells.
    let _ = apt(&["update"]).output().await;
    let doing = BlenderError::io("run apt-get");
    let mut log = tempfile::tempfile().map_err(doing)?;
    let mut install = apt(&["install", "-y", "--no-install-recommends"]);
    // Goes on to its end if we are stopped: half of a package is worse than none.
    install.args(&missing.packages).kill_on_drop(false);
    install.stdout(Stdio::null()).stderr(log.try_clone().map_err(doing)?);
    if install.status().await.map_err(doing)?.success() {
        return Ok(());
    }
    let mut text = String::new();
    log.rewind().and_then(|()| log.read_to_string(&mut text)).map_err(doing)?;
    Err(failed(&format!("apt-get cannot install {list}"), &text))
}

async fn lock(
    path: &Path,
    progress: &mut (dyn FnMut(Step) + Send),
) -> Result<Flock<std::fs::File>, BlenderError> {
    let doing = BlenderError::io("lock the folder of Blenders");
    let file = std::fs::File::options().create(true).truncate(false).write(true).open(path).map_err(doing)?;
    let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(locked) => return Ok(locked),
        Err((file, _)) => file,
    };
    progress(Step::Doing("waiting for another installation to end".to_owned()));
    let locked = tokio::task::spawn_blocking(move || {
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| std::io::Error::from(errno))
    });
    locked.await.unwrap_or_else(|panic| Err(std::io::Error::other(panic))).map_err(doing)
}

fn remove(folder: &Path) -> Result<(), BlenderError> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(BlenderError::io("remove what an earlier installation left")(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pythons(versions: &[&str]) -> Vec<Python> {
        let python =
            |version: &&str| Python { path: "/usr/bin/python".into(), version: (*version).to_owned() };
        versions.iter().map(python).collect()
    }

    #[test]
    fn the_long_term_release_that_fits_a_python_is_chosen() {
        let check = |version, have: &[&str], expected: Option<(&str, &str)>| {
            let chosen = choose(version, &pythons(have)).ok();
            let chosen = chosen.as_ref().map(|(blender, python)| (blender.as_str(), python.version.as_str()));
            assert_eq!(chosen, expected, "{version:?} {have:?}");
        };
        check(None, &["3.11", "3.13"], Some(("4.5", "3.11")));
        check(None, &["3.13"], Some(("5.2", "3.13")));
        check(None, &["3.12"], None);
        check(Some("5.0.1"), &["3.11"], Some(("5.0.1", "3.11")));
        check(Some("5.2"), &["3.11"], None);
        check(Some("3.4"), &["3.11"], None);
        check(Some("latest"), &["3.11"], None);
    }
}
