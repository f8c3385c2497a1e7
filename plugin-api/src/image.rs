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

    /// Returns width and height in pixels.
    pub fn size(&self) -> (u32, u32) {
        self.0.size()
    }

    /// Returns how many samples a pixel it holds; 0 if that is not known.
    pub fn samples(&self) -> u32 {
        self.0.samples()
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
