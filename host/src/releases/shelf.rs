//! The files of releases: the operator's folder, and the host's own copies.
//!
//! What was copied once is never changed: removing a file breaks no job that is pinned
//! to what it held.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use semver::Version;

use super::folder::Folder;
use super::release::Code;
use super::{Release, ReleaseError, Requirement};
use crate::config::{DataDir, create_private};
use crate::plugin::manifest::{self, Manifest};
use crate::plugin::settings::nearest;

/// The file in a release's folder that is its component, or the folder that is its plugin.
const COMPONENT: &str = "component.wasm";
const FOLDER: &str = "plugin";
/// How long a copy stays that no host's catalogue knows: a render of its own may use it.
const OLD: Duration = Duration::from_secs(7 * 24 * 3600);

/// The files of all releases.
#[derive(Debug)]
pub struct Shelf {
    data: DataDir,
    /// The operator's folder.
    pub plugins: PathBuf,
    /// The device that it lay on when a plugin was last seen in it.
    device: Mutex<Option<u64>>,
    /// Whether it is gone, or its disk.
    is_lost: AtomicBool,
}

/// What there is of a name.
struct Named {
    releases: Vec<Release>,
    /// Why the first one that cannot be read cannot.
    broken: Option<ReleaseError>,
    /// The names that there are beside it.
    others: BTreeSet<String>,
}

impl Shelf {
    pub(super) fn new(data: DataDir, plugins: PathBuf) -> Self {
        Self { data, plugins, device: Mutex::default(), is_lost: AtomicBool::new(false) }
    }

    /// Looks for the operator's folder, where these places were known. True if it is gone as a
    /// whole: it is not there, or it is the empty folder below a disk that was unmounted. Blocks.
    pub fn look_for(&self, known: &[PathBuf]) -> bool {
        let device = fs::metadata(&self.plugins).ok().filter(|info| info.is_dir()).map(|info| info.dev());
        let mut before = self.device.lock().expect("no code panics under this lock");
        let is_lost = match device {
            Some(device) if before.is_none_or(|before| before == device) => false,
            Some(_) => !known.iter().any(|place| fs::symlink_metadata(place).is_ok()),
            None => true,
        };
        if !is_lost {
            *before = device;
        }
        let was_lost = self.is_lost.swap(is_lost, Ordering::Relaxed);
        if is_lost && !was_lost {
            let folder = self.plugins.display();
            tracing::warn!(%folder, "the folder of plugins is gone; what was in it serves on");
        }
        is_lost
    }

    /// Whether the operator's folder was gone when it was last looked for.
    pub fn is_lost(&self) -> bool {
        self.is_lost.load(Ordering::Relaxed)
    }

    /// Lists what may be a plugin in the operator's folder. Blocks.
    pub fn places(&self) -> Vec<PathBuf> {
        places(&self.plugins).into_iter().collect()
    }

    /// Lists the releases that have a name: those of the operator's folder, then the
    /// shipped ones; with where each comes from, and why a file is none. Blocks.
    pub fn list(&self) -> Vec<(String, Result<Release, ReleaseError>)> {
        let read = |path: PathBuf| {
            let read = Release::read(&path).and_then(Release::unless_shipped);
            (path.display().to_string(), read)
        };
        let named = self.places().into_iter().map(read);
        let shipped = Release::shipped().into_iter().map(|release| ("shipped".to_owned(), Ok(release)));
        named.chain(shipped).collect()
    }

    /// Finds the release that a name, or a path, stands for. Blocks.
    pub fn find(&self, renderer: &str) -> Result<Release, ReleaseError> {
        if is_path(renderer) {
            return Release::read(Path::new(renderer));
        }
        let wanted: Requirement = renderer.parse()?;
        let Named { mut releases, broken, others } = self.named(&wanted.name);
        // Of the same version, the first.
        let fits = releases.iter().enumerate().rev().filter(|(_, release)| wanted.accepts(release));
        if let Some((at, _)) = fits.max_by_key(|(_, release)| &release.version) {
            return Ok(releases.swap_remove(at));
        }
        if let Some(error) = broken {
            return Err(error);
        }
        let hint = match releases.is_empty() {
            false => format!("the versions of {} are: {}", wanted.name, versions(&releases)),
            true => unknown(&wanted.name, others),
        };
        Err(ReleaseError::Unknown { name: renderer.to_owned(), hint })
    }

    /// Reads the releases of one name.
    fn named(&self, name: &str) -> Named {
        let mut named = Named { releases: Vec::new(), broken: None, others: BTreeSet::new() };
        // Nobody can put another one in the place of what is shipped.
        let is_shipped = Release::is_shipped(name);
        for path in self.places().into_iter().filter(|_| !is_shipped) {
            // Of a folder the name is known before all of it is read.
            match path.is_dir().then(|| Manifest::read(&path).map(|manifest| manifest.name)) {
                Some(Ok(other)) if other != name => {
                    named.others.insert(other);
                }
                Some(Err(_)) => {}
                Some(Ok(_)) => match Release::read(&path) {
                    Ok(release) => named.releases.push(release),
                    Err(error) => named.broken = named.broken.or(Some(error)),
                },
                None => named.releases.extend(Release::read(&path)),
            }
        }
        named.releases.extend(Release::shipped());
        let (releases, others) = named.releases.into_iter().partition(|release| release.name == name);
        named.others.extend(Vec::into_iter(others).map(|release| release.name));
        Named { releases, ..named }
    }

    /// Puts a release that was proven into the operator's folder, beside its other
    /// versions, unless it is there. Returns where. Blocks.
    pub(super) fn install(&self, release: &Release) -> Result<PathBuf, ReleaseError> {
        let Release { name, version, digest, code, .. } = release;
        let mut there = self.named(name).releases.into_iter().filter(|there| there.digest == *digest);
        if let Some(place) = there.find_map(|there| there.place) {
            return Ok(place);
        }
        let failed = |source| ReleaseError::Cache { path: self.plugins.clone(), source };
        create_private(&self.plugins).map_err(failed)?;
        let (place, placed) = match code {
            Code::Component(bytes) => {
                let place = self.plugins.join(format!("{name}-{version}.wasm"));
                let placed = write_whole(&self.plugins, &place, bytes);
                (place, placed)
            }
            Code::Folder { .. } => {
                let place = self.plugins.join(format!("{name}-{version}"));
                // What was proved, whatever has become of where it came from.
                let proved = Folder::Path(self.folder(digest).join(FOLDER));
                let placed = proved.replace(&place, digest);
                (place, placed)
            }
        };
        placed.map_err(failed)?;
        Ok(place)
    }

    /// Takes a release out of the operator's folder; jobs that are pinned to it keep it. Returns
    /// its copies that were there: one at least. Blocks.
    pub fn remove(&self, renderer: &str) -> Result<Vec<Release>, ReleaseError> {
        let wanted: Requirement = renderer.parse()?;
        let Named { mut releases, .. } = self.named(&wanted.name);
        releases.retain(|release| release.place.is_some());
        let installed: BTreeSet<(&Version, &str)> =
            releases.iter().map(|release| (&release.version, release.digest.as_str())).collect();
        let named = |(version, digest): &(&Version, &str)| {
            let is_one = installed.iter().filter(|(other, _)| other == version).count() == 1;
            match is_one {
                true => format!("{}@={version}", wanted.name),
                false => format!("{}@sha256:{}", wanted.name, &digest[..12]),
            }
        };
        let names: Vec<String> = installed.iter().map(named).collect();
        releases.retain(|release| wanted.accepts(release));
        if names.is_empty() {
            let hint = match Release::is_shipped(&wanted.name) {
                true => "it comes with Hotshoe and cannot be removed".to_owned(),
                false => "`hotshoe plugin list` lists what is installed".to_owned(),
            };
            return Err(ReleaseError::NotInstalled { name: renderer.to_owned(), hint });
        }
        if releases.is_empty() || releases.iter().any(|release| release.digest != releases[0].digest) {
            let hint = format!("installed are: {}; name one of them", names.join(", "));
            return Err(ReleaseError::NotOne { name: renderer.to_owned(), hint });
        }
        let failed = |source| ReleaseError::Cache { path: self.plugins.clone(), source };
        // What is hidden is not read: it is gone at once, however long it takes.
        let aside = tempfile::Builder::new().prefix(".remove-").tempdir_in(&self.plugins).map_err(failed)?;
        for (n, place) in releases.iter().filter_map(|release| release.place.as_ref()).enumerate() {
            fs::rename(place, aside.path().join(n.to_string())).map_err(failed)?;
        }
        Ok(releases)
    }

    /// Reads the host's own copy of a release. Blocks.
    pub(super) fn kept(&self, digest: &str) -> Result<Release, ReleaseError> {
        if let Some(shipped) = Release::shipped().into_iter().find(|release| release.digest == digest) {
            return Ok(shipped);
        }
        let folder = self.folder(digest);
        let plugin = folder.join(FOLDER);
        if !plugin.is_dir() {
            let file = folder.join(COMPONENT);
            let release = Release::read(&file)?;
            return match release.digest == digest {
                true => Ok(Release { place: None, ..release }),
                false => Err(damaged(file)),
            };
        }
        if !is_whole(&plugin, digest) {
            return Err(damaged(plugin));
        }
        let manifest = Manifest::read(&plugin)?;
        Ok(Release::folder(Folder::Path(plugin), manifest, digest.to_owned()))
    }

    /// Keeps a copy of a release. Returns where. Blocks.
    pub(super) fn keep(&self, release: &Release) -> Result<PathBuf, ReleaseError> {
        let folder = self.folder(&release.digest);
        let (place, kept) = match &release.code {
            Code::Component(bytes) => {
                let file = folder.join(COMPONENT);
                let kept = if file.exists() { Ok(()) } else { write_soon(&folder, &file, bytes) };
                (file, kept)
            }
            Code::Folder { files, .. } => {
                let place = folder.join(FOLDER);
                let kept = if place.is_dir() { Ok(()) } else { files.copy(&place, &release.digest) };
                (place, kept)
            }
        };
        // Somebody uses it: it is not old.
        let _ = fs::File::open(&folder).and_then(|folder| folder.set_modified(SystemTime::now()));
        kept.map(|()| place).map_err(|source| ReleaseError::Cache { path: folder, source })
    }

    /// Makes the copy of a release anew if it is there and not whole: after a loss of power,
    /// say. Blocks.
    pub(super) fn mend(&self, release: &Release) -> Result<(), ReleaseError> {
        let folder = self.folder(&release.digest);
        let (file, plugin) = (folder.join(COMPONENT), folder.join(FOLDER));
        let told = |copy: &Path| tracing::warn!(copy = %copy.display(), "is damaged; it is copied anew");
        let mended = match &release.code {
            Code::Component(bytes) if file.exists() && !fs::read(&file).is_ok_and(|kept| kept == **bytes) => {
                told(&file);
                write_whole(&folder, &file, bytes)
            }
            Code::Folder { files, .. } if plugin.is_dir() && !is_whole(&plugin, &release.digest) => {
                told(&plugin);
                files.replace(&plugin, &release.digest)
            }
            _ => Ok(()),
        };
        mended.map_err(|source| ReleaseError::Cache { path: folder, source })
    }

    /// Lists the digests of copies that nobody has used for long. Blocks.
    pub(super) fn old_copies(&self) -> Vec<String> {
        let is_old = |entry: &fs::DirEntry| {
            let modified = entry.metadata().and_then(|info| info.modified());
            modified.is_ok_and(|time| time.elapsed().is_ok_and(|age| age > OLD))
        };
        let entries = fs::read_dir(self.folder("")).into_iter().flatten().flatten();
        entries.filter(is_old).filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    /// Returns the folder of what the host keeps of a release.
    pub(super) fn folder(&self, digest: &str) -> PathBuf {
        self.data.release(digest)
    }
}

/// Whether the copy of a folder is as it was made. Blocks.
fn is_whole(plugin: &Path, digest: &str) -> bool {
    Folder::Path(plugin.to_owned()).digest().is_ok_and(|now| now == digest)
}

fn damaged(path: PathBuf) -> ReleaseError {
    let source = io::Error::other("it is damaged; remove it, and install the plugin again");
    ReleaseError::Read { path, source }
}

/// Whether a renderer is named by its path.
pub fn is_path(renderer: &str) -> bool {
    renderer.contains('/') || renderer.ends_with(".wasm")
}

/// Lists what may be a plugin in a folder. Blocks.
pub(super) fn places(folder: &Path) -> BTreeSet<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.filter(|path| may_be_plugin(path)).collect()
}

/// Whether an entry of the operator's folder may be a plugin, by its name.
pub(super) fn may_be_plugin(path: &Path) -> bool {
    let is_hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes()[0] == b'.');
    !is_hidden && (path.extension().is_some_and(|ending| ending == "wasm") || path.is_dir())
}

/// Says what there is where nothing has a name.
pub(super) fn unknown(name: &str, others: BTreeSet<String>) -> String {
    if Path::new(name).join(manifest::FILE).exists() {
        return format!("there is a folder of that name: write ./{name}");
    }
    let near = nearest(name, others.iter().map(String::as_str));
    let near = near.map(|near| format!("did you mean '{near}'? ")).unwrap_or_default();
    let known = others.into_iter().collect::<Vec<_>>().join(", ");
    format!("{near}the renderers are: {known}, or the path of a .wasm file or of a plugin's folder")
}

fn versions(releases: &[Release]) -> String {
    releases.iter().map(|release| release.version.to_string()).collect::<Vec<_>>().join(", ")
}

/// Writes a file whole, and does not wait for the disk: those who are being served do. It is
/// on the disk a moment later, and whoever reads it after a loss of power checks its digest.
fn write_soon(folder: &Path, file: &Path, bytes: &[u8]) -> io::Result<()> {
    let written = aside(folder, bytes)?.persist(file).map_err(|error| error.error)?;
    std::thread::spawn(move || written.sync_all());
    Ok(())
}

/// Writes a file whole or not at all. Another host may be doing the same: whoever
/// renames last wins, with equal bytes.
fn write_whole(folder: &Path, file: &Path, bytes: &[u8]) -> io::Result<()> {
    let aside = aside(folder, bytes)?;
    aside.as_file().sync_all()?;
    aside.persist(file).map_err(|error| error.error)?;
    Ok(())
}

fn aside(folder: &Path, bytes: &[u8]) -> io::Result<tempfile::NamedTempFile> {
    create_private(folder)?;
    let mut aside = tempfile::NamedTempFile::new_in(folder)?;
    aside.write_all(bytes)?;
    Ok(aside)
}
