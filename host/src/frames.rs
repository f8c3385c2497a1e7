//! Lists of frames: `1-4,10,20-30x2`.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// The frames that Blender can render as an animation.
pub const RANGE: RangeInclusive<i32> = 0..=1_048_574;
/// The most frames of one job.
pub const MAX_FRAMES: usize = 1_000_000;

/// Frames `first`, `first + step`, ... up to `last`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "said above")]
pub struct FrameRange {
    pub first: i32,
    pub last: i32,
    pub step: u32,
}

/// Frames in the order in which they were given, none of them twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frames(Vec<FrameRange>);

/// Why a text is no list of frames.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{part}' {what}\nwrite frames as 7, 1-24 or 1-24x2, several with commas between")]
pub struct FramesError {
    part: String,
    what: String,
}

impl Frames {
    /// Returns the ranges.
    pub fn ranges(&self) -> &[FrameRange] {
        &self.0
    }

    /// Counts the frames.
    #[expect(clippy::len_without_is_empty, reason = "there is always a frame")]
    pub fn len(&self) -> usize {
        self.0.iter().map(|range| range.len()).sum()
    }
}

impl FrameRange {
    /// Counts its frames.
    #[expect(clippy::len_without_is_empty, reason = "there is always a frame")]
    pub fn len(&self) -> usize {
        (self.last.abs_diff(self.first) / self.step) as usize + 1
    }

    fn frames(&self) -> impl Iterator<Item = i32> + use<> {
        (self.first..=self.last).step_by(self.step as usize)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let number = |text: &str| -> Result<i32, String> {
            let frame: i32 = text.trim().parse().map_err(|_| "is no frame".to_owned())?;
            let (first, last) = RANGE.into_inner();
            let outside = || format!("is outside of what Blender renders, {first} to {last}");
            RANGE.contains(&frame).then_some(frame).ok_or_else(outside)
        };
        if text.starts_with('-') {
            return Err("is negative, which Blender does not render as an animation".to_owned());
        }
        // Blender itself writes `1..4`.
        let Some((first, rest)) = text.split_once("..").or_else(|| text.split_once('-')) else {
            let first = number(text)?;
            return Ok(Self { first, last: first, step: 1 });
        };
        let (last, step) = match rest.split_once('x') {
            Some((last, step)) => {
                (last, step.trim().parse().map_err(|_| "has a step that is no positive number")?)
            }
            None => (rest, 1),
        };
        let (first, last) = (number(first)?, number(last)?);
        if step == 0 {
            return Err("has a step that is no positive number".to_owned());
        }
        if last < first {
            return Err("runs backwards".to_owned());
        }
        Ok(Self { first, last, step })
    }
}

impl FromStr for Frames {
    type Err = FramesError;

    fn from_str(text: &str) -> Result<Self, FramesError> {
        let mut ranges = Vec::new();
        let mut seen = std::collections::HashSet::new();
        let mut count = 0;
        for part in text.split(',') {
            let failed = |what: String| FramesError { part: part.trim().to_owned(), what };
            let range = FrameRange::parse(part.trim()).map_err(failed)?;
            count += range.len();
            if count > MAX_FRAMES {
                return Err(failed(format!("makes more than {MAX_FRAMES} frames, the most of one job")));
            }
            if let Some(twice) = range.frames().find(|frame| !seen.insert(*frame)) {
                return Err(failed(format!("asks for frame {twice} a second time")));
            }
            ranges.push(range);
        }
        Ok(Self(ranges))
    }
}

impl fmt::Display for Frames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, range) in self.0.iter().enumerate() {
            write!(f, "{}{range}", if index > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

impl fmt::Display for FrameRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, last, step } = self;
        match (first == last, step) {
            (true, _) => write!(f, "{first}"),
            (false, 1) => write!(f, "{first}-{last}"),
            (false, step) => write!(f, "{first}-{last}x{step}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_written_alike() {
        for (text, count) in
            [("7", 1), ("1-4,10,20-30x2", 11), ("0", 1), ("1-10x4", 3), ("1-1000000", MAX_FRAMES)]
        {
            let frames: Frames = text.parse().unwrap();
            assert_eq!((frames.to_string().as_str(), frames.len()), (text, count));
        }
        assert_eq!(" 1 - 4 , 10 ".parse::<Frames>().unwrap().to_string(), "1-4,10");
        assert_eq!("1..4,10".parse::<Frames>().unwrap().to_string(), "1-4,10");
    }

    #[test]
    fn bad_lists_say_what_is_wrong_with_which_part() {
        let check = |text: &str, expected: &str| {
            let error = text.parse::<Frames>().unwrap_err().to_string();
            assert!(error.starts_with(expected), "{text}: {error}");
        };
        check("5-1", "'5-1' runs backwards");
        check("a-b", "'a-b' is no frame");
        check("", "'' is no frame");
        check("1,,2", "'' is no frame");
        check("1-10x0", "'1-10x0' has a step");
        check("1-10x-2", "'1-10x-2' has a step");
        check("-5", "'-5' is negative");
        check("1-4,3", "'3' asks for frame 3 a second time");
        check("0-1048574", "'0-1048574' makes more than 1000000 frames");
        check("1048575", "'1048575' is outside");
        check("99999999999", "'99999999999' is no frame");
    }
}
