//! Renders one frame a task, exactly as Blender itself would, and a movie of them if one is wanted.
//!
//! Blender writes the final file with the scene's own output settings; its
//! pixels are those of `blender -b scene -f FRAME`. The settings change the
//! scene first, each only if it is given.

use hotshoe_plugin::{
    Error, FrameRange, Frames, Job, Outcome, Page, PlannedTask, Renderer, Result, Scene, SceneInfo, Task,
    export,
};
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
    /// Name of a movie to make of the pictures at the end, with the scene's own codec, frame rate and
    /// sound: .mp4, .mkv, .mov, .avi or .webm.
    #[schemars(length(min = 1, max = 128))]
    movie: Option<String>,
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

/// What the first page of a plan finds out, which the cursors tell all others.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Course {
    /// A simulation comes from frame to frame: several workers would each begin at its start.
    is_simulated: bool,
    has_movie: bool,
}

/// How cursors begin of a plan whose frames come after each other.
const IN_ORDER: &str = "in-order-";
/// How cursors begin of a plan with a movie at its end.
const WITH_MOVIE: &str = "with-movie-";
/// The task that makes the movie, and where in a plan it is.
const MOVIE: &str = "movie";
/// The most frames of a movie, as the contract says.
const MOVIE_FRAMES: usize = 100_000;

impl Renderer for Direct {
    type Settings = Settings;
    const SUMMARY: &'static str = "one frame a task, exactly as Blender itself would write it";

    fn plan(job: &Job<Settings>, cursor: Option<&str>) -> Result<Page> {
        let (course, cursor) = match cursor {
            Some(cursor) => Course::told(cursor),
            None => {
                let scene = open(job)?.inspect()?;
                check(&scene)?;
                let has_movie = job.settings.movie.is_some() || scene.is_movie;
                if has_movie {
                    check_movie(&scene, &job.frames, job.settings.movie.as_deref())?;
                }
                (Course { is_simulated: !scene.unbaked_simulations.is_empty(), has_movie }, None)
            }
        };
        if cursor == Some(MOVIE) {
            return Ok(Page { tasks: vec![movie_task(&job.frames, course.is_simulated)], next: None });
        }
        let page = match course.is_simulated {
            true => Page::of_frames_in_order(&job.frames, cursor),
            false => Page::of_frames(&job.frames, cursor),
        }?;
        let next = page.next.or_else(|| course.has_movie.then(|| MOVIE.to_owned()));
        Ok(Page { next: next.map(|next| course.tell(&next)), ..page })
    }

    fn render(task: &Task<Settings>) -> Result<Outcome> {
        let scene = open(&task.job)?;
        match task.name.as_str() {
            MOVIE => {
                let movie = task.job.settings.movie.as_deref();
                scene.encode(only_range(&task.job.frames)?, None, movie)?
            }
            _ => scene.write(task.frame()?, None)?,
        };
        Ok(Outcome::Done)
    }
}

impl Course {
    /// Takes what a cursor tells, and where the page begins.
    fn told(cursor: &str) -> (Self, Option<&str>) {
        let rest = cursor.strip_prefix(IN_ORDER);
        let (is_simulated, cursor) = (rest.is_some(), rest.unwrap_or(cursor));
        let rest = cursor.strip_prefix(WITH_MOVIE);
        (Self { is_simulated, has_movie: rest.is_some() }, Some(rest.unwrap_or(cursor)))
    }

    fn tell(self, next: &str) -> String {
        let order = if self.is_simulated { IN_ORDER } else { "" };
        let movie = if self.has_movie { WITH_MOVIE } else { "" };
        [order, movie, next].concat()
    }
}

/// Plans the movie after all its frames.
fn movie_task(frames: &Frames, in_order: bool) -> PlannedTask {
    // Of frames in order the last comes after all others.
    let first = if in_order { frames.len().saturating_sub(1) } else { 0 };
    let before = frames.iter_from(first).map(|frame| PlannedTask::frame(frame).name().to_owned());
    before.fold(PlannedTask::new(MOVIE), PlannedTask::after)
}

/// Returns the frames of a movie.
fn only_range(frames: &Frames) -> Result<FrameRange> {
    match frames.ranges() {
        [range] => Ok(*range),
        _ => Err(Error::invalid(
            "a movie is made of one range of frames, such as 1-240\n\
             render them so, or make no movie: leave --movie out, or say --set file_format=PNG if the scene writes one",
        )),
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
    // Blender takes any camera if none is active, also one that is not linked into the scene, and
    // needs none for a film that is only edited.
    if scene.cameras.is_empty() && scene.camera.is_none() && !scene.post_processing {
        return Err(Error::invalid("the scene has no camera\nadd one in Blender"));
    }
    Ok(())
}

/// Finds what would keep a movie from being made, before the first frame is rendered.
fn check_movie(scene: &SceneInfo, frames: &Frames, name: Option<&str>) -> Result<()> {
    only_range(frames)?;
    let ending = name.and_then(|name| name.rsplit_once('.')).map(|(_, ending)| ending.to_ascii_lowercase());
    if let Some(name) = name
        && !["mp4", "mkv", "mov", "avi", "webm"].map(Some).contains(&ending.as_deref())
    {
        return Err(Error::invalid(format!(
            "'{name}' is not the name of a movie\nlet it end in .mp4, .mkv, .mov, .avi or .webm"
        )));
    }
    if frames.len() > MOVIE_FRAMES {
        let count = frames.len();
        return Err(Error::invalid(format!(
            "a movie has at most {MOVIE_FRAMES} frames, and these are {count}"
        )));
    }
    match scene.file_format.as_str() {
        format @ ("OPEN_EXR_MULTILAYER" | "CINEON" | "DPX") => Err(Error::unsupported(format!(
            "Blender makes no movie of {format} pictures\nrender others, such as with --set file_format=OPEN_EXR"
        ))),
        "FRAMESERVER" => Err(Error::unsupported(
            "the scene serves its frames to another program, which is no movie\n\
             render pictures with --set file_format=PNG",
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_tells_what_the_first_page_found() {
        for (is_simulated, has_movie) in [(false, false), (false, true), (true, false), (true, true)] {
            let course = Course { is_simulated, has_movie };
            assert_eq!(Course::told(&course.tell("4096")), (course, Some("4096")));
            assert_eq!(Course::told(&course.tell(MOVIE)), (course, Some(MOVIE)));
        }
    }

    #[test]
    fn a_movie_comes_after_all_its_frames() {
        let frames = Frames::new(vec![FrameRange { first: 1, last: 5, step: 2 }]);
        assert_eq!(movie_task(&frames, false).comes_after(), ["frame-1", "frame-3", "frame-5"]);
        assert_eq!(movie_task(&frames, true).comes_after(), ["frame-5"]);
    }

    #[test]
    fn every_engine_with_samples_has_its_own_path() {
        assert_eq!(samples_path("CYCLES").unwrap(), "cycles.samples");
        assert_eq!(samples_path("BLENDER_EEVEE").unwrap(), "eevee.taa_render_samples");
        assert!(samples_path("BLENDER_WORKBENCH").is_err());
    }
}
