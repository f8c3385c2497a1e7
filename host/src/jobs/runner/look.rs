//! The first look at a scene: what is odd about it, which files it needs, and which of them are
//! missing or kept from it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};
use tokio::sync::mpsc;

use super::End;
use crate::blender::wire::SceneInfo;
use crate::blender::{BlenderError, references};
use crate::capability::blender::heard;
use crate::capability::{Attempt, CapabilityError, Code, ERROR_TEXT, harmless};
use crate::config::allowed;
use crate::events::EventKind;
use crate::frames::{FrameRange, Frames};
use crate::jobs::JobSpec;
use crate::jobs::scheduler::Message;
use crate::plugin::PluginError;
use crate::store::Writing;
use crate::terms::{Blame, Failure, WarningAbout};

/// How many warnings of a scene are told.
const WARNINGS: usize = 200;

/// Finds what is wrong with the scene before anything is rendered, and takes
/// down the files that it needs.
pub(super) async fn look(
    spec: &JobSpec,
    attempt: &Attempt,
    mailbox: &mpsc::Sender<Message>,
) -> Result<(), End> {
    let context = &spec.context;
    let _working = attempt.used.working();
    // The workers that are wanted later come up meanwhile.
    let count = spec.frames.as_ref().map_or(1, Frames::len);
    let others = context.pool.size().min(count).saturating_sub(1);
    let scene = context.pool.open(context.wanted());
    let (pool, wanted) = (context.pool.clone(), context.wanted());
    tokio::spawn(async move {
        if let Err(error) = pool.warm_up(&wanted, others).await {
            tracing::warn!(%error, "a worker did not start; the frame that wants it tries again");
        }
    });
    let scene = seen(scene.await, attempt).await?;
    let mut info = seen(scene.inspect().await, attempt).await?;
    if spec.frames.is_none() {
        let _ = spec.scene_frames.set(frames_of(&info)?);
    }
    let looked = tokio::task::spawn_blocking(move || {
        let files: Vec<PathBuf> = references::look(&mut info).into_iter().collect();
        (info, files)
    });
    let panicked = |_| End::Failed(PluginError::Host("looking for files failed".to_owned()));
    let (info, files) = looked.await.map_err(panicked)?;
    let closed: BTreeSet<PathBuf> = match files.is_empty() {
        true => BTreeSet::new(),
        false => seen(scene.unreadable(&files).await, attempt).await?.into_iter().collect(),
    };
    // What this user may not read, Blender could not read either, confined or not.
    let (withheld, unreadable): (Vec<PathBuf>, Vec<PathBuf>) =
        closed.iter().cloned().partition(|file| access(file, AccessFlags::R_OK).is_ok());
    for (about, message) in warnings(&info, &unreadable, &context.scene) {
        let warning = EventKind::Warning { job: context.id, about: Some(about), message };
        let append = move |writing: &mut Writing<'_>| writing.append(warning.clone());
        context.store.write_patiently(append).await.map_err(|error| PluginError::Answer(error.into()))?;
    }
    if !withheld.is_empty() {
        return Err(End::Withheld(kept_from(&context.scene, withheld)));
    }
    let lacking = info.missing_files.len() + unreadable.len();
    if spec.strict && lacking > 0 {
        let message = format!(
            "the scene misses {lacking} of its files and --strict forbids that\n\
             put them where the scene wants them, or render without --strict"
        );
        return Err(End::Hopeless(PluginError::Answer(CapabilityError::new(Code::NotFound, message))));
    }
    // Until it is known which files it has loaded, nobody else is to find it so.
    scene.loaded().take();
    let needed = files.into_iter().filter(|file| !closed.contains(file));
    let needed = needed.filter_map(|file| file.canonicalize().ok()).collect();
    let content = context.content.depends_on(needed, context.output.folder()).await;
    let content = content.map_err(PluginError::Answer)??;
    scene.holds(context.wanted());
    let _ = mailbox.send(Message::Looked { job: context.id, content }).await;
    Ok(())
}

/// Returns the frames that `blender -a` renders of a scene.
fn frames_of(info: &SceneInfo) -> Result<Frames, End> {
    let (first, last, step) = (info.frame_start, info.frame_end, info.frame_step.max(1));
    let range = FrameRange { first, last, step };
    range.to_string().parse().map_err(|_| {
        let message =
            format!("the scene's own frames, {range}, cannot be rendered\nname others with --frames");
        End::Hopeless(PluginError::Answer(CapabilityError::new(Code::InvalidArgument, message)))
    })
}

/// How many files are named in an error.
const NAMED: usize = 10;

/// Makes the failure of a job whose scene needs files that only our sandbox keeps from it.
fn kept_from(scene: &Path, withheld: Vec<PathBuf>) -> Failure {
    let folders = folders_of(scene, &withheld);
    let names = withheld.iter().take(NAMED).map(|file| format!("  {}\n", file.display()));
    let more = withheld.len().saturating_sub(NAMED);
    let more = if more > 0 { format!("  and {more} more\n") } else { String::new() };
    let what = if withheld.len() == 1 { "a file" } else { "files" };
    let flags = folders.iter().map(|folder| format!(" --read {}", folder.display()));
    let message = format!(
        "the scene needs {what} outside of its folder, which Blender may not read:\n{}{more}\
         let it with{}\nor once and for all, for every scene of a project: hotshoe project allow {}",
        names.collect::<String>(),
        flags.collect::<String>(),
        folders[0].display()
    );
    let message = harmless(message, ERROR_TEXT);
    Failure { withheld, within: folders, ..Failure::new(Blame::Client, message) }
}

/// Returns the folder that holds a scene and the files that it needs; if that is the root or more
/// than a home, the folders of the files.
fn folders_of(scene: &Path, files: &[PathBuf]) -> Vec<PathBuf> {
    let common = scene.ancestors().skip(1).find(|folder| files.iter().all(|file| file.starts_with(folder)));
    match common.filter(|folder| !allowed::is_wide(folder)) {
        Some(common) => vec![common.to_owned()],
        None => {
            let own: BTreeSet<&Path> = files.iter().filter_map(|file| file.parent()).collect();
            own.into_iter().take(NAMED).map(Path::to_owned).collect()
        }
    }
}

/// Says what is odd about a scene, a sentence each.
fn warnings(info: &SceneInfo, unreadable: &[PathBuf], scene: &Path) -> Vec<(WarningAbout, String)> {
    use WarningAbout::{BlockedScript, MissingFile, Scene, UnbakedSimulation, UnreadableFile};
    let missing = info.missing_files.iter();
    let missing = missing.map(|file| (MissingFile, format!("missing file: {}", file.display())));
    let unreadable = unreadable.iter();
    let unreadable = unreadable.map(|file| {
        (UnreadableFile, format!("this user may not read {}, so Blender renders without it", file.display()))
    });
    let last = info.blocked_scripts.len().saturating_sub(1);
    let blocked = info.blocked_scripts.iter().enumerate().map(|(index, script)| {
        let hint = match index == last {
            true => format!("\nif you trust the scene: hotshoe scene trust {}", scene.display()),
            false => String::new(),
        };
        (BlockedScript, format!("kept from running: {script}{hint}"))
    });
    let simulations = info.unbaked_simulations.iter().map(|what| {
        let message =
            format!("unbaked simulation: {what}; frames come out as `blender -a` renders them, in any order");
        (UnbakedSimulation, message)
    });
    let others = info.warnings.iter().map(|warning| (Scene, warning.clone()));
    let all = missing.chain(unreadable).chain(blocked).chain(simulations).chain(others);
    let clean = |(about, warning)| (about, harmless(warning, ERROR_TEXT));
    let mut said: Vec<_> = all.map(clean).take(WARNINGS + 1).collect();
    if said.len() > WARNINGS {
        said[WARNINGS].1 = "further warnings of this kind are not shown".to_owned();
    }
    said
}

/// Tells deaths of Blender, which another try may not see, from what it says of the scene.
async fn seen<T>(result: Result<T, BlenderError>, attempt: &Attempt) -> Result<T, End> {
    use BlenderError::{Died, Hung, Io, Start};
    let has_died = matches!(result, Err(Died { .. } | Hung { .. } | Start { .. } | Io { .. }));
    let error = match heard(attempt, result).await {
        Ok(value) => return Ok(value),
        Err(error) => PluginError::Answer(error),
    };
    Err(if has_died { End::Failed(error) } else { End::Hopeless(error) })
}
