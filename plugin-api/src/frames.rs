//! The frames of a job.

pub use crate::sys::hotshoe::plugin::types::FrameRange;

/// The frames that a job asks for, as ranges: a long animation stays small.
#[derive(Debug, Clone, Default)]
pub struct Frames {
    ranges: Vec<FrameRange>,
}

impl Frames {
    /// Makes the frames of some ranges.
    pub fn new(ranges: Vec<FrameRange>) -> Self {
        Self { ranges }
    }

    /// Returns the ranges.
    pub fn ranges(&self) -> &[FrameRange] {
        &self.ranges
    }

    /// Counts the frames.
    pub fn len(&self) -> usize {
        self.ranges.iter().map(count).sum()
    }

    /// Whether there is no frame at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Iterates over the frames from the one at `index` on, without
    /// walking over those before it.
    pub fn iter_from(&self, index: usize) -> impl Iterator<Item = i32> + '_ {
        let mut skip = index;
        self.ranges.iter().flat_map(move |range| {
            let skipped = skip.min(count(range));
            skip -= skipped;
            (skipped..count(range)).map(|i| range.first + i as i32 * range.step as i32)
        })
    }
}

fn count(range: &FrameRange) -> usize {
    ((range.last - range.first) as u32 / range.step) as usize + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames() -> Frames {
        let range = |first, last, step| FrameRange { first, last, step };
        Frames::new(vec![range(1, 4, 1), range(10, 10, 1), range(20, 31, 5)])
    }

    #[test]
    fn ranges_count_and_iterate_as_their_frames() {
        assert_eq!(frames().len(), 8);
        assert_eq!(frames().iter_from(0).collect::<Vec<_>>(), [1, 2, 3, 4, 10, 20, 25, 30]);
    }

    #[test]
    fn iteration_starts_anywhere_and_ends_at_the_end() {
        assert_eq!(frames().iter_from(4).collect::<Vec<_>>(), [10, 20, 25, 30]);
        assert_eq!(frames().iter_from(6).collect::<Vec<_>>(), [25, 30]);
        assert_eq!(frames().iter_from(99).count(), 0);
    }
}
