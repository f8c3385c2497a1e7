//! The words that all parts share: ids, digests, states, and who is to blame.

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The id of a job. Ids sort by the time at which they were made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct JobId(Uuid);

impl JobId {
    /// Makes an id that no other job has.
    #[expect(clippy::new_without_default, reason = "each one is another")]
    pub fn new() -> Self {
        Self(Uuid::now_v7())
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for JobId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let none = |_| format!("'{text}' is no id of a job; one looks like {}", Self::new());
        text.parse().map(Self).map_err(none)
    }
}

/// Makes a closed set of words that travel and are stored as text.
macro_rules! words {
    ($(#[$about:meta])* $name:ident { $($(#[$each:meta])* $word:ident = $text:literal,)* }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
        #[serde(rename_all = "snake_case")]
        pub enum $name { $($(#[$each])* $word,)* }

        impl $name {
            /// Returns the word itself.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$word => $text,)* }
            }
        }

        impl FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($text => Ok(Self::$word),)*
                    other => Err(format!("'{other}' is none of: {}", [$($text),*].join(", "))),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

words! {
    /// The state of a job.
    JobState {
        /// Accepted, and waiting for its turn.
        Queued = "queued",
        /// Its renderer is being asked what to do.
        Planning = "planning",
        /// Its tasks are being done.
        Running = "running",
        /// Nothing of it is begun until it is resumed.
        Paused = "paused",
        /// All its tasks are done.
        Succeeded = "succeeded",
        /// Not all its tasks could be done.
        Failed = "failed",
        /// Somebody did not want it any more.
        Canceled = "canceled",
    }
}

words! {
    /// The state of a task.
    TaskState {
        /// Another task comes first.
        Blocked = "blocked",
        /// It may be begun.
        Ready = "ready",
        /// An attempt is being made.
        Running = "running",
        /// Done.
        Done = "done",
        /// Given up.
        Failed = "failed",
        /// Not wanted any more, or not possible.
        Canceled = "canceled",
    }
}

words! {
    /// Who is to blame for a failure.
    Blame {
        /// Whoever asked: the scene, the settings, the frames.
        Client = "client",
        /// The plugin.
        Plugin = "plugin",
        /// Blender.
        Blender = "blender",
        /// The host.
        Host = "host",
    }
}

words! {
    /// What a warning of a scene is about.
    WarningAbout {
        /// A file that the scene names is not there.
        MissingFile = "missing_file",
        /// A file that is there cannot be read, by nobody of this user.
        UnreadableFile = "unreadable_file",
        /// Python that the scene carries was kept from running.
        BlockedScript = "blocked_script",
        /// A simulation is not baked.
        UnbakedSimulation = "unbaked_simulation",
        /// Something else in the scene.
        Scene = "scene",
    }
}

words! {
    /// Why a job is paused.
    PauseCode {
        /// Somebody asked for it.
        Asked = "asked",
        /// A file that it renders from is not as it was when the job was submitted.
        Changed = "changed",
        /// There is no room for its pictures.
        DiskFull = "disk_full",
        /// The release that it is pinned to does not serve, and it may not run on another.
        Release = "release",
        /// The host cannot go on with it.
        Host = "host",
    }
}

words! {
    /// The state of a release.
    ReleaseState {
        /// It is being looked at; nothing runs on it.
        Checking = "checking",
        /// It wants more than the release before it, and waits for the operator.
        Held = "held",
        /// It serves some tasks, until enough is known of it.
        Canary = "canary",
        /// It serves.
        Active = "active",
        /// A newer one serves; jobs that are pinned to it go on.
        Draining = "draining",
        /// It cannot be used.
        Rejected = "rejected",
        /// It served, and did harm.
        Quarantined = "quarantined",
        /// A newer one serves, and no job is pinned to it.
        Retired = "retired",
    }
}

words! {
    /// Whether a release is still where it was found.
    Presence {
        /// It is.
        Present = "present",
        /// Another one is in its place.
        Replaced = "replaced",
        /// Nothing is in its place.
        Removed = "removed",
    }
}

words! {
    /// How far the pin of a job may move by itself.
    Upgrade {
        /// Not at all.
        Pinned = "pinned",
        /// To releases of the same minor version, which promise the same picture.
        Patch = "patch",
        /// To all that its requirement accepts.
        Compatible = "compatible",
    }
}

/// Why something failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Failure {
    /// Who is to blame.
    pub blame: Blame,
    /// One sentence, and further lines of detail.
    pub message: String,
    /// Files that the scene needs and that workers may not read, if that is why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub withheld: Vec<PathBuf>,
    /// The folders that hold them: `read` of a submission that lets workers read them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub within: Vec<PathBuf>,
}

impl Failure {
    /// Makes a failure.
    pub fn new(blame: Blame, message: impl Into<String>) -> Self {
        Self { blame, message: message.into(), withheld: Vec::new(), within: Vec::new() }
    }
}

/// Why a job is paused, and until when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Pause {
    /// The reason in a word.
    pub code: PauseCode,
    /// One sentence, and what to do in the lines after it.
    pub message: String,
}

impl JobState {
    /// Whether nothing happens to the job any more.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Canceled)
    }
}

impl TaskState {
    /// Whether nothing happens to the task any more.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Canceled)
    }
}

/// Makes a line of at most so many characters of what a stranger says of himself.
pub fn one_line(text: &str, most: usize) -> String {
    text.chars().filter(|c| !is_obeyed(*c)).take(most).collect()
}

/// Takes out of a text what a terminal would obey, so that a stranger's words cannot pass for others.
pub fn harmless(text: &str) -> Cow<'_, str> {
    let obeyed = |c: char| is_obeyed(c) && c != '\n';
    if text.contains(obeyed) { text.replace(obeyed, "\u{fffd}").into() } else { text.into() }
}

/// Whether a terminal obeys a character instead of showing it: it moves the cursor, sets colours, or
/// turns the order of writing around.
fn is_obeyed(c: char) -> bool {
    let turns =
        matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || turns || matches!(c, '\u{2028}' | '\u{2029}')
}

/// Writes a size as the configuration does, in MiB; in bytes if it is less than one.
pub fn size(bytes: u64) -> String {
    const MIB: u64 = 1024 * 1024;
    match bytes {
        0..MIB => format!("{bytes} bytes"),
        _ if bytes.is_multiple_of(MIB) => format!("{} MiB", bytes / MIB),
        _ => format!("{:.1} MiB", bytes as f64 / MIB as f64),
    }
}

/// Writes a digest, or what else has no other name, as hexadecimal digits.
pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
words! {
    /// An interface of the contract that gives a plugin something. The conversation with
    /// the host (`host`) is everybody's.
    Capability {
        /// Scenes in workers.
        Blender = "blender",
        /// Pictures that the host keeps.
        Image = "image",
        /// Devices.
        Gpu = "gpu",
        /// A few bytes that outlive an attempt.
        State = "state",
        /// The conversation.
        Host = "host",
    }
}
