//! Releases by the dozen: one component, with other words in its bytes.

use std::path::PathBuf;
use std::sync::LazyLock;

use serde_json::{Value, json};
use wasm_metadata::{AddMetadata, AddMetadataField, Version};

use crate::farm::Farm;
use crate::harness::component;

/// New releases serve at once.
pub(crate) const AT_ONCE: &str = "[rollout]\nfirst = 0\ntasks = 0\n";

/// Makes a release of the renderer `changeling`, which does what `text` says: its tag, how
/// it behaves and a number (tests/fixtures/changeling).
pub(crate) fn release(version: &str, text: &str) -> Vec<u8> {
    const MARK: &[u8] = b"<changeling>";
    static BUILT: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let built = component(&["--profile", "plugin", "--package", "changeling"]);
        std::fs::read(built.join("plugin/changeling.wasm")).unwrap()
    });
    let mut bytes = BUILT.clone();
    let at = bytes.windows(MARK.len()).position(|bytes| bytes == MARK).unwrap() + MARK.len();
    let text = format!("{text:<52}");
    assert_eq!(text.len(), 52, "{text}");
    bytes[at..at + 52].copy_from_slice(text.as_bytes());
    let mut metadata = AddMetadata::default();
    metadata.name = AddMetadataField::Set("changeling".to_owned());
    metadata.version = AddMetadataField::Set(Version::new(version.to_owned()));
    metadata.to_wasm(&bytes).unwrap()
}

impl Farm {
    /// A farm of workers that stand in for Blender, with a folder of plugins.
    pub(crate) fn with_plugins(config: &str) -> Self {
        let mut farm = Self::new();
        std::fs::create_dir_all(farm.plugins()).unwrap();
        farm.config = config.to_owned();
        farm
    }

    /// A farm on which version 1.0.0 of the changeling serves.
    pub(crate) fn serving(config: &str) -> Self {
        let mut farm = Self::with_plugins(config);
        farm.put("changeling.wasm", &release("1.0.0", "a well 0"));
        farm.serve();
        farm.until("1.0.0", "active");
        farm
    }

    pub(crate) fn plugins(&self) -> PathBuf {
        self.path("data/plugins")
    }

    /// Moves a file to its place in the folder of plugins, as a careful author does.
    pub(crate) fn put(&self, name: &str, bytes: &[u8]) {
        let aside = self.path("aside");
        std::fs::write(&aside, bytes).unwrap();
        std::fs::rename(aside, self.plugins().join(name)).unwrap();
    }

    /// All releases of the changeling, as `plugin list` has them.
    pub(crate) fn releases(&self) -> Vec<Value> {
        let listed = self.client().call("plugins.list", json!({}));
        let all = listed["plugins"].as_array().unwrap().iter();
        all.filter(|plugin| plugin["id"] == "changeling").cloned().collect()
    }

    /// Waits until a version of the changeling is in a state, and returns it.
    #[track_caller]
    pub(crate) fn until(&self, version: &str, state: &str) -> Value {
        let began = std::time::Instant::now();
        loop {
            let releases = self.releases();
            if let Some(found) =
                releases.iter().find(|one| one["version"] == version && one["state"] == state)
            {
                return found.clone();
            }
            assert!(began.elapsed().as_secs() < 60, "{version} is not {state}: {releases:#?}");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    /// Submits frames to a renderer; returns the job.
    #[track_caller]
    pub(crate) fn submit_to(&self, renderer: &str, frames: &str, more: Value) -> Value {
        let mut job = self.job(frames);
        job["renderer"] = json!(renderer);
        more.as_object().unwrap().iter().for_each(|(key, value)| job[key] = value.clone());
        self.client().call("jobs.submit", job)
    }

    /// Submits frames to the changeling, and waits until they are done.
    #[track_caller]
    pub(crate) fn render(&self, frames: &str) -> Value {
        let job = self.submit_to("changeling", frames, json!({}));
        self.wait_for(job["id"].as_str().unwrap(), "succeeded")
    }

    /// The events of one kind.
    pub(crate) fn told(&self, kind: &str) -> Vec<Value> {
        self.events().into_iter().filter(|event| event["event"] == kind).collect()
    }

    /// Who has rendered the frames of a job, as they say themselves.
    pub(crate) fn tags(&self, job: &str) -> Vec<String> {
        let logs = self.told("log").into_iter().filter(|event| event["job"] == job);
        let tag = |event: Value| Some(event["message"].as_str()?.strip_prefix("by ")?.to_owned());
        logs.filter_map(tag).collect()
    }
}
