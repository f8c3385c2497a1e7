//! `scene.encode`: movies of the pictures that a job has.
//!
//! The pictures stay where they are. A worker of its own, which may read links to them and nothing
//! more of the output folder, lays them into Blender's sequencer and encodes them; the scene in it
//! is worth nothing afterwards, and it ends.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;
use sha2::{Digest, Sha256};

use super::{Attempt, CapabilityError, Code, Done, Result, Scene, blocking, check, empty_folder, heard};
use crate::blender::wire::{self, Steps};
use crate::capability::output::{self, File, Known, Staging};
use crate::frames::FrameRange;
use crate::store::outputs::Output as Recorded;
use crate::terms::hexadecimal;

/// The most frames of a movie.
const FRAMES: usize = 100_000;

/// A movie, and the pictures it is made of.
#[derive(Debug)]
struct Reel {
    movie: PathBuf,
    pictures: Vec<PathBuf>,
}

impl Scene {
    /// Makes movies of pictures: one of each view that has files of its own.
    pub async fn encode(
        &self,
        frames: FrameRange,
        pictures: Option<&str>,
        name: Option<&str>,
    ) -> Result<Vec<File>> {
        let steps = steps(frames, pictures, name)?;
        let encode = async {
            let mut inner = self.inner.clone().lock_owned().await;
            let find = wire::FindReel { frames: steps, pictures, name };
            let found = inner.worker().await?.reel(&find).await;
            let reels = reels(heard(&self.attempt, found).await?, frames)?;
            let movies: Vec<PathBuf> = reels.iter().map(|reel| reel.movie.clone()).collect();
            let (links, from) = self.link(reels).await?;
            let from = json!([inner.step(frames.first, name), frames.last, frames.step, from]);
            let step = hexadecimal(&Sha256::digest(from.to_string()));
            // A movie that is there may be one of other pictures: only a recorded one is kept.
            if let Known::Whole(files) = output::finished(&step, &self.attempt).await? {
                return Ok(Done::Before(files));
            }
            // One that the scene was opened in may not read the pictures.
            inner.held = None;
            inner.reads = Some(links.folder().to_owned());
            let opened = inner.worker().await.map(drop);
            inner.reads = None;
            let held = inner.held.take();
            let held = opened.map(|()| held.expect("it was opened"))?;
            let directory = empty_folder(&held)?;
            let request =
                wire::Encode { frames: steps, name, pictures: links.folder(), directory: &directory };
            let encoded = self.watched(&held, held.encode(&request), Attempt::encoding).await;
            let taken = match encoded {
                Ok(()) => self.take(inner, directory, &movies, Vec::new()).await,
                Err(error) => Err(error),
            };
            held.end("its movie is made").await;
            Ok(Done::Now { staging: taken?, paths: movies, step })
        };
        self.finish(self.or_canceled(encode).await?).await
    }

    /// Links pictures where a worker finds them in their order; returns also from what they are
    /// made, which is never the same if that is not known.
    async fn link(&self, reels: Vec<Reel>) -> Result<(Staging, Vec<String>)> {
        let job = &self.attempt.job;
        let recorded = job.store.outputs_of_job(job.id).await?;
        let output = job.output.clone();
        blocking(move || {
            let recorded: HashMap<&Path, &Recorded> =
                recorded.iter().map(|file| (file.path.as_path(), file)).collect();
            let links = output.stage()?;
            let mut from = Vec::new();
            for (number, reel) in reels.iter().enumerate() {
                let folder = links.folder().join(number.to_string());
                fs::create_dir(&folder).map_err(CapabilityError::io("make a folder for a movie"))?;
                for (index, name) in reel.pictures.iter().enumerate() {
                    let path = output.folder().join(name);
                    let known = recorded.get(path.as_path()).copied();
                    let known = known.filter(|known| is_there(known)).ok_or_else(|| {
                        let message =
                            format!("the picture {} is not there to make a movie of", name.display());
                        CapabilityError::new(Code::NotFound, message)
                    })?;
                    let ending = name.extension().unwrap_or_default().to_string_lossy().into_owned();
                    let link = folder.join(format!("{index:06}.{ending}"));
                    // Some file systems know no links, and on some machines one links only what one owns.
                    fs::hard_link(&path, &link)
                        .or_else(|_| fs::copy(&path, &link).map(drop))
                        .map_err(CapabilityError::io("link a picture for a movie"))?;
                    from.push(known.sha256.clone().unwrap_or_else(|| uuid::Uuid::now_v7().to_string()));
                }
            }
            Ok((links, from))
        })
        .await
    }
}

fn is_there(recorded: &Recorded) -> bool {
    let info = recorded.path.symlink_metadata();
    info.is_ok_and(|info| info.is_file() && info.len() == recorded.size)
}

/// Fails unless there can be a movie of some frames.
fn steps(frames: FrameRange, pictures: Option<&str>, name: Option<&str>) -> Result<Steps> {
    check(frames.first, pictures)?;
    check(frames.last, name)?;
    let FrameRange { first, last, step } = frames;
    if last < first || step == 0 {
        let message = format!("a movie has frames from the first to the last, not {first}-{last}x{step}");
        return Err(CapabilityError::new(Code::InvalidArgument, message));
    }
    match frames.len() {
        0..=FRAMES => Ok(Steps(first, last + 1, step)),
        count => Err(CapabilityError::new(
            Code::Limit,
            format!("a movie has at most {FRAMES} frames, and these are {count}"),
        )),
    }
}

/// Takes what a worker says of movies, if it can be so.
fn reels(found: Vec<wire::Reel>, frames: FrameRange) -> Result<Vec<Reel>> {
    let is_odd = |reel: &wire::Reel| reel.pictures.len() != frames.len();
    if found.is_empty() || found.iter().any(is_odd) {
        return Err(CapabilityError::new(
            Code::Blender,
            "Blender names other pictures than there are frames",
        ));
    }
    let reel = |reel: wire::Reel| Reel {
        movie: reel.movie.into(),
        pictures: reel.pictures.into_iter().map(PathBuf::from).collect(),
    };
    Ok(found.into_iter().map(reel).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn movies_have_frames_in_one_direction_and_not_too_many() {
        let code = |first, last, step, name| {
            steps(FrameRange { first, last, step }, None, name).map(drop).map_err(|error| error.code)
        };
        assert_eq!(code(1, 240, 1, Some("shot.mp4")), Ok(()));
        assert_eq!(code(0, 99_999, 1, None), Ok(()));
        assert_eq!(code(0, 199_999, 2, None), Ok(()));
        assert_eq!(code(0, 100_000, 1, None), Err(Code::Limit));
        for (first, last, step, name) in
            [(2, 1, 1, None), (1, 2, 0, None), (-1, 2, 1, None), (1, 2, 1, Some("../a.mp4"))]
        {
            assert_eq!(code(first, last, step, name), Err(Code::InvalidArgument));
        }
    }
}
