//! Pictures that the host keeps.

use std::ops::{Deref, DerefMut};

use crate::Result;
#[cfg(not(target_arch = "wasm32"))]
use crate::process::Floats;
use crate::sys::hotshoe::plugin::image as sys;
pub use crate::sys::hotshoe::plugin::types::Region;

#[cfg(target_arch = "wasm32")]
type Floats = Vec<f32>;

/// Pixels that were read: red, green, blue, alpha of each. They can be changed and
/// written again, which a process does without copying them.
#[derive(Debug)]
pub struct Pixels(Floats);

impl Deref for Pixels {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.0
    }
}

impl DerefMut for Pixels {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.0
    }
}

impl<T: AsRef<[f32]> + ?Sized> PartialEq<T> for Pixels {
    fn eq(&self, other: &T) -> bool {
        **self == *other.as_ref()
    }
}

impl<'a> IntoIterator for &'a Pixels {
    type Item = &'a f32;
    type IntoIter = std::slice::Iter<'a, f32>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl AsRef<[f32]> for Pixels {
    fn as_ref(&self) -> &[f32] {
        self
    }
}

/// Scene-linear RGBA pixels in the host. The pixels stay there until read.
#[derive(Debug)]
pub struct Image(pub(crate) sys::Image);

impl Image {
    /// Makes a transparent black image.
    pub fn create(width: u32, height: u32) -> Result<Self> {
        Ok(Self(sys::Image::create(width, height)?))
    }

    /// Loads the image that this job saved under `key`.
    pub fn load(key: &str) -> Result<Self> {
        Ok(Self(sys::Image::load(key)?))
    }

    /// Averages pictures of one size, each weighed by its samples.
    pub fn merge(parts: &[&Self]) -> Result<Self> {
        let parts: Vec<_> = parts.iter().map(|part| &part.0).collect();
        Ok(Self(sys::Image::merge(&parts)?))
    }

    /// Returns width and height in pixels.
    pub fn size(&self) -> (u32, u32) {
        self.0.size()
    }

    /// Returns how many samples a pixel it holds; 0 if that is not known.
    pub fn samples(&self) -> u32 {
        self.0.samples()
    }

    /// Copies a region into an image of its own.
    pub fn crop(&self, region: Region) -> Result<Self> {
        Ok(Self(self.0.crop(region)?))
    }

    /// Copies another picture into this one, its lower left corner to `x`, `y`.
    pub fn place(&self, part: &Self, x: u32, y: u32) -> Result<()> {
        Ok(self.0.place(&part.0, x, y)?)
    }

    /// Reads the pixels of a region, row by row from the lowest up.
    pub fn read(&self, region: Region) -> Result<Pixels> {
        Ok(Pixels(self.0.read(region)?))
    }

    /// Overwrites the pixels of a region, laid out as `read` gives them.
    pub fn write(&self, region: Region, pixels: &[f32]) -> Result<()> {
        Ok(self.0.write(region, pixels)?)
    }

    /// Keeps the image under `key` for other attempts of this job.
    pub fn save(&self, key: &str) -> Result<()> {
        Ok(self.0.save(key)?)
    }
}
