//! A release: what it is, and how it is read from where it lies.

use std::borrow::Cow;
use std::fmt;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use semver::Version;
use sha2::{Digest, Sha256};
use wasm_metadata::Payload;

use super::ReleaseError;
use super::folder::{Embedded, Folder};
use crate::plugin::manifest::{self, Manifest};
use crate::terms::hexadecimal;

/// The largest component that is read, in bytes.
const MAX_SIZE: u64 = 64 * 1024 * 1024;
/// How WebAssembly begins.
const MAGIC: &[u8] = b"\0asm";
/// The components that are part of this program.
const SHIPPED: [&[u8]; 1] = [include_bytes!("../../../plugins/direct/direct.wasm")];

/// The folders that are part of this program.
const SHIPPED_FOLDERS: [Embedded; 1] = [include!(concat!(env!("OUT_DIR"), "/contact-sheet.rs"))];

/// One immutable version of a plugin.
#[derive(Debug, Clone)]
pub struct Release {
    /// Its plugin's name.
    pub name: String,
    /// Its version.
    pub version: Version,
    /// The SHA-256 of its bytes, in hexadecimal digits.
    pub digest: String,
    /// The file or folder that it was read from; none if it is part of this program.
    pub place: Option<PathBuf>,
    pub(super) code: Code,
}

/// What is run of a release.
#[derive(Debug, Clone)]
pub(super) enum Code {
    Component(Cow<'static, [u8]>),
    Folder { files: Folder, manifest: Box<Manifest> },
}

impl Release {
    /// Returns the releases that are part of this program.
    pub fn shipped() -> Vec<Self> {
        static RELEASES: LazyLock<Vec<Release>> = LazyLock::new(|| {
            let read = |bytes: &&'static [u8]| Release::component(Cow::Borrowed(*bytes), "");
            let components = SHIPPED.iter().map(|bytes| read(bytes).expect("what is shipped fits"));
            components.chain(SHIPPED_FOLDERS.iter().map(|files| Release::embedded(files))).collect()
        });
        RELEASES.clone()
    }

    /// Reads a component file, or a folder that holds a plugin.
    pub fn read(path: &Path) -> Result<Self, ReleaseError> {
        let failed = |source| ReleaseError::Read { path: path.to_owned(), source };
        let info = fs::metadata(path).map_err(failed)?;
        if info.is_dir() {
            let (manifest, files) = (Manifest::read(path)?, Folder::Path(path.to_owned()));
            let digest = files.digest().map_err(failed)?;
            return Ok(Self { place: Some(path.to_owned()), ..Self::folder(files, manifest, digest) });
        }
        let mut bytes = Vec::new();
        // It may be replaced by something else, or grow, while it is read.
        let file = super::watcher::open(path).map_err(failed)?;
        file.take(MAX_SIZE + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > MAX_SIZE {
            return Err(failed(std::io::Error::other(format!("it has more than {MAX_SIZE} bytes"))));
        }
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        if !bytes.starts_with(MAGIC) {
            let what = if bytes.is_empty() {
                "it is empty"
            } else {
                "it is no WebAssembly, whatever it is called, nor the folder of a plugin"
            };
            return Err(failed(std::io::Error::other(what)));
        }
        let read = Self::component(Cow::Owned(bytes), &stem);
        let release = read.map_err(|what| failed(std::io::Error::other(what)))?;
        Ok(Self { place: Some(path.to_owned()), ..release })
    }

    /// Whether it is itself part of this program, whatever it is called.
    pub(super) fn comes_with_us(&self) -> bool {
        Self::shipped().iter().any(|shipped| shipped.digest == self.digest)
    }

    /// Whether what has a name is part of this program.
    pub(super) fn is_shipped(name: &str) -> bool {
        Self::shipped().iter().any(|shipped| shipped.name == name)
    }

    /// Fails if what has its name is part of this program.
    pub(super) fn unless_shipped(self) -> Result<Self, ReleaseError> {
        match Self::is_shipped(&self.name) {
            true => Err(ReleaseError::Taken { name: self.name }),
            false => Ok(self),
        }
    }

    /// Returns the component itself, if it is one.
    pub fn bytes(&self) -> Option<&[u8]> {
        match &self.code {
            Code::Component(bytes) => Some(bytes),
            Code::Folder { .. } => None,
        }
    }

    fn embedded(files: Embedded) -> Self {
        let text = files.iter().find(|(name, _)| *name == manifest::FILE).map(|(_, bytes)| *bytes);
        let text = text.and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default();
        let manifest = Manifest::parse(text, Path::new(manifest::FILE)).expect("what is shipped fits");
        let files = Folder::Embedded(files);
        let digest = files.digest().expect("nothing is read");
        Self::folder(files, manifest, digest)
    }

    pub(super) fn folder(files: Folder, manifest: Manifest, digest: String) -> Self {
        let (name, version) = (manifest.name.clone(), manifest.version.clone());
        Self {
            name,
            version,
            digest,
            place: None,
            code: Code::Folder { files, manifest: Box::new(manifest) },
        }
    }

    /// Takes name and version from the component's metadata, or from that of the module
    /// in it, which `export!` writes. One without is named after its file, and version 0.0.0.
    fn component(bytes: Cow<'static, [u8]>, stem: &str) -> Result<Self, String> {
        let payload = Payload::from_binary(&bytes).ok();
        let inner = payload.as_ref().and_then(|payload| match payload {
            Payload::Component { children, .. } => children.first(),
            Payload::Module(_) => None,
        });
        let mut said = payload.iter().chain(inner).map(Payload::metadata);
        let name = said.clone().find_map(|metadata| metadata.name.as_deref()).unwrap_or(stem);
        // As a compiler writes the name of its file.
        let name = name.trim_end_matches(".wasm").replace('_', "-");
        if !manifest::is_name(&name) {
            return Err(format!("its name '{name}' is not valid: a plugin name is {}", manifest::NAME));
        }
        let version = said.find_map(|metadata| metadata.version.as_ref()).map(ToString::to_string);
        let version = version.map_or(Ok(Version::new(0, 0, 0)), |version| {
            Version::parse(&version)
                .map_err(|error| format!("its version '{version}' is not a semantic version: {error}"))
        })?;
        let digest = hexadecimal(&Sha256::digest(&bytes));
        Ok(Self { name, version, digest, place: None, code: Code::Component(bytes) })
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}+{}", self.name, self.version, &self.digest[..12])
    }
}
