//! Renders one frame a task, exactly as Blender itself would.
//!
//! Blender writes the final file with the scene's own output settings; its
//! pixels are those of `blender -b scene -f FRAME`. The settings change the
//! scene first, each only if it is given.

use hotshoe_plugin::{Error, Job, Outcome, Page, Renderer, Result, Scene, SceneInfo, Task, export};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

struct Direct;

/// Each one defaults to what the scene says.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Settings {
    /// Samples a pixel (Cycles and EEVEE).
    #[schemars(range(min = 1, max = 16_777_216))]
    samples: Option<u32>,
    /// Size of the picture in percent of the scene's resolution.
    #[schemars(range(min = 1, max = 32_767))]
    resolution_percentage: Option<u32>,
    /// Render engine, whatever this Blender calls it.
    engine: Option<Engine>,
    /// Name of the camera object to look through.
    #[schemars(length(min = 1))]
    camera: Option<String>,
    /// Name of the only view layer to render.
    #[schemars(length(min = 1))]
    view_layer: Option<String>,
    /// Picture format to write.
    file_format: Option<FileFormat>,
    /// Name of the scene in the file.
    #[schemars(length(min = 1))]
    scene: Option<String>,
    /// Whether Blender keeps geometry and textures from frame to frame: where no picture can change,
    /// always, never.
    persistent_data: Option<Persistence>,
}

#[derive(Debug, Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Persistence {
    Auto,
    On,
    Off,
}

#[derive(Debug, Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
enum Engine {
    Cycles,
    Eevee,
    Workbench,
}

/// Blender's names of the formats that hold one picture.
#[derive(Debug, Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum FileFormat {
    Bmp,
    Cineon,
    Dpx,
    Hdr,
    Iris,
    Jpeg,
    #[serde(rename = "JPEG2000")]
    Jpeg2000,
    OpenExr,
    OpenExrMultilayer,
    Png,
    Targa,
    TargaRaw,
    Tiff,
    Webp,
}

/// How cursors begin of a plan whose frames come after each other.
const IN_ORDER: &str = "in-order-";

impl Renderer for Direct {
    type Settings = Settings;
    const SUMMARY: &'static str = "one frame a task, exactly as Blender itself would write it";

    fn plan(job: &Job<Settings>, cursor: Option<&str>) -> Result<Page> {
        let is_simulated = match cursor {
            Some(cursor) => cursor.starts_with(IN_ORDER),
            None => {
                let scene = open(job)?.inspect()?;
                check(&scene)?;
                !scene.unbaked_simulations.is_empty()
            }
        };
        if !is_simulated {
            return Page::of_frames(&job.frames, cursor);
        }
        // A simulation comes from frame to frame: several workers would each begin at its start.
        let page =
            Page::of_frames_in_order(&job.frames, cursor.map(|cursor| cursor.trim_start_matches(IN_ORDER)))?;
        Ok(Page { next: page.next.map(|next| format!("{IN_ORDER}{next}")), ..page })
    }

    fn render(task: &Task<Settings>) -> Result<Outcome> {
        open(&task.job)?.write(task.frame()?, None)?;
        Ok(Outcome::Done)
    }
}

export!(Direct);

/// Opens the job's scene with the job's settings.
fn open(job: &Job<Settings>) -> Result<Scene> {
    let scene = Scene::open(&job.scene, None)?;
    let settings = &job.settings;
    let Settings { samples, resolution_percentage, engine, camera, view_layer, file_format, .. } = settings;
    if let Some(name) = &settings.scene {
        scene.set("scene", name)?;
    }
    if let Some(how) = settings.persistent_data {
        scene.set("persistent_data", how)?;
    }
    if let Some(engine) = engine {
        scene.set("engine", engine)?;
    }
    if let Some(samples) = samples {
        scene.set(samples_path(&scene.inspect()?.engine)?, samples)?;
    }
    if let Some(percentage) = resolution_percentage {
        scene.set("render.resolution_percentage", percentage)?;
    }
    if let Some(camera) = camera {
        scene.set("camera", camera)?;
    }
    if let Some(view_layer) = view_layer {
        scene.set("view_layer", view_layer)?;
    }
    if let Some(file_format) = file_format {
        scene.set("render.image_settings.file_format", file_format)?;
    }
    Ok(scene)
}

/// Where an engine keeps its number of samples.
fn samples_path(engine: &str) -> Result<&'static str> {
    match engine {
        "CYCLES" => Ok("cycles.samples"),
        "BLENDER_EEVEE" | "BLENDER_EEVEE_NEXT" => Ok("eevee.taa_render_samples"),
        other => Err(Error::unsupported(format!("{other} has no setting 'samples'\nleave it out"))),
    }
}

/// Finds what would fail on every frame, before the first one is rendered.
fn check(scene: &SceneInfo) -> Result<()> {
    if scene.is_movie {
        let format = &scene.file_format;
        return Err(Error::unsupported(format!(
            "the scene writes {format}, a movie, which cannot be rendered frame by frame\n\
             render pictures with --set file_format=PNG and make the movie from them"
        )));
    }
    // Blender takes any camera if none is active, also one that is not linked into the scene, and
    // needs none for a film that is only edited.
    if scene.cameras.is_empty() && scene.camera.is_none() && !scene.post_processing {
        return Err(Error::invalid("the scene has no camera\nadd one in Blender"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_engine_with_samples_has_its_own_path() {
        assert_eq!(samples_path("CYCLES").unwrap(), "cycles.samples");
        assert_eq!(samples_path("BLENDER_EEVEE").unwrap(), "eevee.taa_render_samples");
        assert!(samples_path("BLENDER_WORKBENCH").is_err());
    }
}
