//! Pictures that the host keeps.

use crate::Result;
use crate::sys::hotshoe::plugin::image as sys;
pub use crate::sys::hotshoe::plugin::types::Region;

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
    pub fn read(&self, region: Region) -> Result<Vec<f32>> {
        Ok(self.0.read(region)?)
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
