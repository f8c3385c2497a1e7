//! The messages between host and worker, as `blender/worker` speaks them.

use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The version of these messages.
pub const PROTOCOL: u32 = 1;

/// What a worker says first.
#[derive(Debug, Clone, Deserialize)]
pub struct Hello {
    /// The version of the messages that it speaks.
    pub protocol: u32,
    /// Its Blender's version, e.g. `[4, 5, 15]`.
    pub blender: (u32, u32, u32),
    /// The same as Blender writes it, e.g. `4.5.15 LTS`.
    pub blender_version: String,
}

/// That a request is still being worked on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
pub struct Progress {
    /// Seconds since the request began.
    pub seconds: f64,
    /// Samples done and wanted, as far as Blender says.
    pub samples: Option<(u32, u32)>,
    /// Grows whenever Blender tells that it goes on.
    #[serde(default)]
    pub activity: u64,
}

/// `scene.open`
#[derive(Debug, Serialize)]
pub struct Open<'a> {
    /// The scene file.
    pub path: &'a Path,
    /// Whether to load it even if it is loaded already.
    pub anew: bool,
    /// Threads to render with; all that the scene says if absent.
    pub threads: Option<u32>,
    /// What the worker enables before it opens a file for the first time.
    pub addons: &'a Addons,
    /// What the job wants of it.
    #[serde(flatten)]
    pub how: &'a Opening,
}

/// What a job wants of a scene that is opened.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Opening {
    /// Which scene of the file; the one that was active when it was saved if absent.
    pub scene: Option<String>,
    /// Whether a scene that asks for a GPU may render on the CPU.
    pub cpu: bool,
    /// Whether the Python that it carries may run.
    pub trust: bool,
}

/// Add-ons of the operator.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Addons {
    /// The folder that they lie in.
    pub folder: Option<PathBuf>,
    /// The names of their modules.
    pub names: Vec<String>,
}

/// The answer to `scene.open`.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Opened {
    /// Whether the scene was loaded already.
    pub warm: bool,
    /// Whether the scene lets existing files be overwritten.
    pub overwrite: bool,
}

/// `scene.set`
#[derive(Debug, Serialize)]
pub struct Set<'a> {
    /// The property.
    pub path: &'a str,
    /// Its new value.
    pub value: &'a serde_json::Value,
}

/// `scene.paths`
#[derive(Debug, Serialize)]
pub struct Paths<'a> {
    /// The frame.
    pub frame: i32,
    /// The plugin's file name, or none for the scene's.
    pub name: Option<&'a str>,
}

/// `scene.write`
#[derive(Debug, Serialize)]
pub struct Write<'a> {
    /// The frame.
    pub frame: i32,
    /// The plugin's file name, or none for the scene's.
    pub name: Option<&'a str>,
    /// Where all its files go.
    pub directory: &'a Path,
    /// The release that makes them, for their metadata.
    pub maker: &'a str,
}

/// The answer to `scene.write`.
#[derive(Debug, Default, Deserialize)]
pub struct Written {
    /// OpenEXR files of several layers, which the worker cannot read again.
    pub unread: Vec<Below>,
}

/// The name of a file, and of its folders, below the one that a worker was given.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "PathBuf")]
pub struct Below(PathBuf);

impl From<Below> for PathBuf {
    fn from(Below(path): Below) -> Self {
        path
    }
}

impl TryFrom<PathBuf> for Below {
    type Error = String;

    fn try_from(path: PathBuf) -> Result<Self, Self::Error> {
        let is_below = path.components().all(|part| matches!(part, Component::Normal(_)));
        match is_below && path.file_name().is_some() {
            true => Ok(Self(path)),
            false => Err(format!("{} is no name of a file below its folder", path.display())),
        }
    }
}

/// `scene.shot`
#[derive(Debug, Serialize)]
pub struct Shot<'a> {
    /// The frame.
    pub frame: i32,
    /// Part of the picture.
    pub region: Option<Region>,
    /// Part of the samples.
    pub samples: Option<Samples>,
    /// The OpenEXR file to write.
    pub file: &'a Path,
}

/// Part of a picture, in pixels from the lower left.
#[derive(Debug, Clone, Copy, Serialize)]
#[expect(missing_docs, reason = "as in the contract")]
pub struct Region {
    pub x: u32,
    pub y: u32,
    pub width: u32,
    pub height: u32,
}

/// Part of a frame's samples.
#[derive(Debug, Clone, Copy, Serialize)]
#[expect(missing_docs, reason = "as in the contract")]
pub struct Samples {
    pub offset: u32,
    pub count: u32,
    pub total: u32,
}

/// `scene.develop`
#[derive(Debug, Serialize)]
pub struct Develop<'a> {
    /// The OpenEXR file to read.
    pub image: &'a Path,
    /// The frame, for the file name.
    pub frame: i32,
    /// The plugin's file name, or none for the scene's.
    pub name: Option<&'a str>,
    /// Where the file goes.
    pub directory: &'a Path,
}

/// `scene.reel`
#[derive(Debug, Serialize)]
pub struct FindReel<'a> {
    /// The frames.
    pub frames: Steps,
    /// The name of the pictures, or none for the scene's.
    pub pictures: Option<&'a str>,
    /// The name of the movie, or none for the scene's.
    pub name: Option<&'a str>,
}

/// `scene.encode`
#[derive(Debug, Serialize)]
pub struct Encode<'a> {
    /// The frames.
    pub frames: Steps,
    /// The name of the movie, or none for the scene's.
    pub name: Option<&'a str>,
    /// A folder with a folder for each movie, 0, 1, ..., and in it its pictures in their order.
    pub pictures: &'a Path,
    /// Where the movies go.
    pub directory: &'a Path,
}

/// Frames as Python's `range` takes them: the first, the one after the last, the step.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Steps(pub i32, pub i32, pub u32);

/// A part of the answer to `scene.reel`: a movie, and the pictures it is made of.
#[derive(Debug, Deserialize)]
pub struct Reel {
    /// The movie.
    pub movie: Below,
    /// The picture of each frame.
    pub pictures: Vec<Below>,
}

/// The answer to `scene.inspect`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[expect(missing_docs, reason = "as in the contract, with warnings for people")]
pub struct SceneInfo {
    pub blender_version: String,
    pub engine: String,
    pub frame_start: i32,
    pub frame_end: i32,
    pub frame_step: u32,
    pub fps: f64,
    pub width: u32,
    pub height: u32,
    pub samples: u32,
    pub camera: Option<String>,
    pub cameras: Vec<String>,
    pub view_layers: Vec<String>,
    pub views: Vec<String>,
    pub file_format: String,
    pub is_movie: bool,
    pub post_processing: bool,
    /// Those of the files that it names which are not there; the host looks.
    #[serde(skip_deserializing)]
    pub missing_files: Vec<PathBuf>,
    /// The files that it names, whether they are there or not.
    #[serde(default)]
    pub references: Vec<Reference>,
    pub blocked_scripts: Vec<String>,
    #[serde(default)]
    pub unbaked_simulations: Vec<String>,
    pub warnings: Vec<String>,
}

/// Files that a scene names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    /// An absolute path, or what one is made from.
    pub path: PathBuf,
    /// What it stands for.
    pub kind: ReferenceKind,
}

/// What a path stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReferenceKind {
    /// One file.
    File,
    /// Files whose names have numbers for `<UDIM>` or `<UVTILE>`.
    Tiles,
    /// All files that are numbered as this one is.
    Sequence,
    /// All files of a folder and those below it.
    Folder,
}

/// `files.unreadable`
#[derive(Debug, Serialize)]
pub struct Unreadable<'a> {
    /// Files to try.
    pub paths: &'a [PathBuf],
}

/// The data of a worker's error.
#[derive(Debug, Deserialize)]
pub struct Refusal {
    /// A code of the contract.
    pub code: String,
    /// One sentence.
    pub message: String,
}
