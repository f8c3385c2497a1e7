//! Small pictures, fast: the smallest renderer that is of use.

use hotshoe_plugin::{Outcome, Renderer, Result, Scene, Task, export};
use schemars::JsonSchema;
use serde::Deserialize;

struct Draft;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// Size of the picture in percent.
    #[schemars(range(min = 1, max = 100))]
    #[serde(default = "half")]
    percentage: u32,
}

fn half() -> u32 {
    50
}

impl Renderer for Draft {
    type Settings = Settings;
    const SUMMARY: &'static str = "small pictures, fast";

    fn render(task: &Task<Settings>) -> Result<Outcome> {
        let scene = Scene::open(&task.job.scene, None)?;
        scene.set("render.resolution_percentage", task.job.settings.percentage)?;
        scene.set("cycles.samples", 4)?;
        scene.write(task.frame()?, None)?;
        Ok(Outcome::Done)
    }
}

export!(Draft);
