//! `image`: scene-linear pixels that the host keeps.

use std::fs::File;
use std::io::{self, BufReader, BufWriter};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use exr::meta::BlockDescription;
use exr::meta::header::Header;
use exr::prelude::*;

use super::usage::Hit;
use super::{Attempt, CapabilityError, Code, Result, check_key};
use crate::blender::wire::Region;
use crate::config::limits;
use crate::terms::size;

/// Fails if one of the OpenEXR files cannot be decoded whole. Keeps no pixels.
pub fn check_all(files: Vec<PathBuf>) -> Result<()> {
    files.into_iter().try_for_each(|file| {
        check_exr(&file).map_err(|error| {
            let name = file.file_name().unwrap_or_default().display();
            CapabilityError::new(
                Code::Blender,
                format!("the rendered file {name} cannot be read again: {error}"),
            )
        })
    })
}

fn check_exr(file: &Path) -> exr::error::UnitResult {
    let reader = exr::block::read(BufReader::new(File::open(file)?), false)?;
    let metadata = reader.meta_data().clone();
    check_headers(&metadata.headers)?;
    for chunk in reader.all_chunks(false)? {
        match exr::block::UncompressedBlock::decompress_chunk(chunk?, &metadata, false) {
            // DWAA and DWAB: that the chunk is there is all that can be known.
            Err(exr::error::Error::NotSupported(_)) => {}
            block => drop(block?),
        }
    }
    Ok(())
}

/// Fails if a file says that it has parts for which there is no room: whoever has written it may
/// say what he likes, and what is decoded has its room before it is.
fn check_headers(headers: &[Header]) -> exr::error::UnitResult {
    let is_small = |size: Vec2<usize>| size.width().max(size.height()) <= MAX_SIDE as usize;
    let fits = |header: &Header| {
        let tiles = match &header.blocks {
            BlockDescription::Tiles(tiles) => is_small(tiles.tile_size),
            BlockDescription::ScanLines => true,
        };
        tiles && is_small(header.layer_size) && header.max_block_byte_size() <= LARGEST_BLOCK
    };
    match headers.iter().all(fits) {
        true => Ok(()),
        false => Err(exr::error::Error::Invalid("its parts are too large".into())),
    }
}

/// The largest part of an image that is decoded at once, in bytes.
const LARGEST_BLOCK: usize = 512 * 1024 * 1024;
/// The longest side of an image, in pixels.
pub const MAX_SIDE: u32 = 65_536;
/// The largest region that is read or written at once, in pixels.
pub const MAX_AREA: u64 = 4_194_304;
const CHANNELS: usize = 4;
/// The samples of an image that nothing was placed in yet.
const NOTHING: u32 = u32::MAX;
/// The EXR attribute that holds the samples a pixel.
const SAMPLES: &str = "hotshoe.samples";

/// Pixels: red, green, blue, alpha, row by row from the lowest up.
#[derive(Debug, Clone)]
pub struct Image(Arc<Pixels>);

#[derive(Debug)]
struct Pixels {
    width: u32,
    height: u32,
    samples: AtomicU32,
    values: RwLock<Vec<f32>>,
    _budget: Budget,
}

/// Bytes that count against an attempt until they are dropped.
#[derive(Debug)]
pub struct Budget {
    used: Arc<AtomicU64>,
    bytes: u64,
}

impl Budget {
    fn take(attempt: &Attempt, width: u32, height: u32) -> Result<Self> {
        let limit = |message| Err(CapabilityError::new(Code::Limit, message));
        if !(1..=MAX_SIDE).contains(&width) || !(1..=MAX_SIDE).contains(&height) {
            return limit(format!("an image has 1 to {MAX_SIDE} pixels a side, not {width}x{height}"));
        }
        Self::take_bytes(attempt, u64::from(width) * u64::from(height) * (CHANNELS * size_of::<f32>()) as u64)
    }

    /// Counts bytes of pixels, if the attempt may keep so many more.
    pub fn take_bytes(attempt: &Attempt, bytes: u64) -> Result<Self> {
        let (pixels, most) = (&attempt.used.pixels, limits::bytes(attempt.by.limits.pixels_mib));
        let budget = Self { used: pixels.clone(), bytes };
        match pixels.fetch_add(bytes, Ordering::Relaxed) + bytes > most {
            true => Err(Hit::new("pixels_mib", format!("{} of pixels kept", size(most))).into()),
            false => Ok(budget),
        }
    }
}

impl Drop for Budget {
    fn drop(&mut self) {
        self.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Image {
    /// Makes a transparent black image.
    pub fn create(attempt: &Attempt, width: u32, height: u32) -> Result<Self> {
        let budget = Budget::take(attempt, width, height)?;
        Ok(Self::new(width, height, NOTHING, vec![0.0; width as usize * height as usize * CHANNELS], budget))
    }

    fn new(width: u32, height: u32, samples: u32, values: Vec<f32>, budget: Budget) -> Self {
        let (samples, values) = (AtomicU32::new(samples), RwLock::new(values));
        Self(Arc::new(Pixels { width, height, samples, values, _budget: budget }))
    }

    /// Returns width and height.
    pub fn size(&self) -> (u32, u32) {
        (self.0.width, self.0.height)
    }

    /// Returns how many samples a pixel it holds; 0 if that is not known.
    pub fn samples(&self) -> u32 {
        match self.0.samples.load(Ordering::Relaxed) {
            NOTHING => 0,
            samples => samples,
        }
    }

    /// Averages pictures, each weighed by its samples. Blocks.
    pub fn merge(parts: &[Self], attempt: &Attempt) -> Result<Self> {
        let invalid = |message| Err(CapabilityError::new(Code::InvalidArgument, message));
        let Some(first) = parts.first() else { return invalid("there is no picture to merge".to_owned()) };
        if let Some(other) = parts.iter().find(|part| part.size() != first.size()) {
            let ((w, h), (w2, h2)) = (first.size(), other.size());
            return invalid(format!("pictures of one size are merged, not of {w}x{h} and {w2}x{h2}"));
        }
        if parts.iter().any(|part| part.samples() == 0) {
            return invalid("a picture whose samples are not known has no weight".to_owned());
        }
        let (width, height) = first.size();
        let budget = Budget::take(attempt, width, height)?;
        let total: f64 = parts.iter().map(|part| f64::from(part.samples())).sum();
        let mut sums = vec![0.0; width as usize * height as usize * CHANNELS];
        // Doubles, a row at a time: many parts add up without an error that can be seen.
        let stride = width as usize * CHANNELS;
        let mut row = vec![0.0f64; stride];
        for (y, sums) in sums.chunks_exact_mut(stride).enumerate() {
            row.fill(0.0);
            for part in parts {
                let weight = f64::from(part.samples()) / total;
                let values = part.0.values.read().expect("no code panics under this lock");
                let values = values[y * stride..][..stride].iter();
                row.iter_mut().zip(values).for_each(|(sum, value)| *sum += weight * f64::from(*value));
            }
            sums.iter_mut().zip(&row).for_each(|(sum, value)| *sum = *value as f32);
        }
        let samples = parts.iter().map(Self::samples).fold(0, u32::saturating_add);
        Ok(Self::new(width, height, samples, sums, budget))
    }

    /// Copies a region into an image of its own. Blocks.
    pub fn crop(&self, region: Region, attempt: &Attempt) -> Result<Self> {
        self.contains(region)?;
        let budget = Budget::take(attempt, region.width, region.height)?;
        Ok(Self::new(region.width, region.height, self.samples(), self.copy(region), budget))
    }

    /// Copies another image into this one. Blocks.
    pub fn place(&self, part: &Self, x: u32, y: u32) -> Result<()> {
        if Arc::ptr_eq(&self.0, &part.0) {
            let message = "an image cannot be placed in itself";
            return Err(CapabilityError::new(Code::InvalidArgument, message));
        }
        let region = Region { x, y, width: part.0.width, height: part.0.height };
        self.contains(region)?;
        let pixels = part.0.values.read().expect("no code panics under this lock");
        self.change(region, copying(&pixels));
        self.0.samples.fetch_min(part.samples(), Ordering::Relaxed);
        Ok(())
    }

    /// Reads the pixels of a region.
    pub fn read(&self, region: Region) -> Result<Vec<f32>> {
        self.floats(region)?;
        Ok(self.copy(region))
    }

    /// Reads the pixels of a region part by part, in order.
    pub fn read_parts(&self, region: Region, each: impl FnMut(&[f32])) -> Result<()> {
        self.floats(region)?;
        self.visit(region, each);
        Ok(())
    }

    /// Overwrites the pixels of a region.
    pub fn write(&self, region: Region, pixels: &[f32]) -> Result<()> {
        self.write_parts(region, pixels.len(), copying(pixels))
    }

    /// Overwrites the pixels of a region with so many floats, part by part, in order.
    pub fn write_parts(&self, region: Region, length: usize, each: impl FnMut(&mut [f32])) -> Result<()> {
        let wanted = self.floats(region)?;
        if length != wanted {
            let message = format!("the region takes {wanted} numbers, not {length}");
            return Err(CapabilityError::new(Code::InvalidArgument, message));
        }
        self.change(region, each);
        Ok(())
    }

    fn copy(&self, region: Region) -> Vec<f32> {
        let mut pixels = Vec::with_capacity(region.width as usize * region.height as usize * CHANNELS);
        self.visit(region, |part| pixels.extend_from_slice(part));
        pixels
    }

    /// Shows the pixels of a region that is within the image, part by part.
    fn visit(&self, region: Region, mut each: impl FnMut(&[f32])) {
        let values = self.0.values.read().expect("no code panics under this lock");
        self.parts(region).for_each(|part| each(&values[part]));
    }

    /// Hands out the pixels of a region that is within the image, part by part.
    fn change(&self, region: Region, mut each: impl FnMut(&mut [f32])) {
        let mut values = self.0.values.write().expect("no code panics under this lock");
        self.parts(region).for_each(|part| each(&mut values[part]));
    }

    /// Keeps the image for other attempts of the job.
    pub fn save(&self, key: &str, attempt: &Attempt) -> Result<()> {
        let spool = &attempt.job.spool;
        check_key(key)?;
        std::fs::create_dir_all(spool).map_err(CapabilityError::io("make the job's spool"))?;
        let aside = tempfile::NamedTempFile::new_in(spool);
        let aside = aside.map_err(CapabilityError::io("write to the spool"))?;
        self.write_exr(aside.as_file(), None)?;
        let saved = spool.read_dir().map_err(CapabilityError::io("list the spool"))?.flatten();
        let saved = saved.filter(|file| file.file_name() != key).filter_map(|file| file.metadata().ok());
        let most = limits::bytes(attempt.by.limits.saved_mib);
        if saved.map(|info| info.len()).sum::<u64>() > most {
            return Err(Hit::new("saved_mib", format!("{} of images that a job saves", size(most))).into());
        }
        let kept = aside.persist(spool.join(key)).map_err(|error| error.error);
        kept.map_err(CapabilityError::io("write to the spool"))?;
        Ok(())
    }

    /// Loads what an attempt of the job saved.
    pub fn load(key: &str, attempt: &Attempt) -> Result<Self> {
        check_key(key)?;
        let file = File::open(attempt.job.spool.join(key)).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                CapabilityError::new(Code::NotFound, format!("no image was saved under '{key}'"))
            }
            _ => CapabilityError::io("read from the spool")(error),
        })?;
        Self::read_exr(file, 0, attempt)
    }

    /// Writes an OpenEXR file, whose rows run from the highest down; and who made it, which
    /// Blender takes along where it turns the file into another one.
    pub fn write_exr(&self, file: &File, maker: Option<&str>) -> Result<()> {
        let values = self.0.values.read().expect("no code panics under this lock");
        let (width, height) = (self.0.width as usize, self.0.height as usize);
        let pixel = |position: Vec2<usize>| {
            let at = ((height - 1 - position.y()) * width + position.x()) * CHANNELS;
            (values[at], values[at + 1], values[at + 2], values[at + 3])
        };
        let mut image = exr::image::Image::from_channels((width, height), SpecificChannels::rgba(pixel));
        let samples = AttributeValue::I32(self.samples().try_into().unwrap_or(i32::MAX));
        let attributes = &mut image.layer_data.attributes.other;
        attributes.insert(Text::from(SAMPLES), samples);
        if let Some(maker) = maker {
            attributes.insert(Text::from("Note"), AttributeValue::Text(Text::from(maker)));
        }
        image.write().to_buffered(BufWriter::new(file)).map_err(|error| {
            CapabilityError::new(Code::Host, format!("cannot write an image to the spool: {error}"))
        })
    }

    /// Reads an OpenEXR file; `samples` is for files that do not say.
    pub fn read_exr(file: File, samples: u32, attempt: &Attempt) -> Result<Self> {
        let failed = |error: exr::error::Error| {
            CapabilityError::new(Code::Host, format!("cannot read a rendered image: {error}"))
        };
        let chunks = exr::block::read(BufReader::new(file), false).map_err(failed)?;
        check_headers(chunks.headers()).map_err(failed)?;
        let other = || CapabilityError::new(Code::Host, "a rendered image has not the layer that is wanted");
        let [header] = chunks.headers() else { return Err(other()) };
        let size = header.layer_size;
        let (width, height) = (size.width() as u32, size.height() as u32);
        // Counted before there is room made for it.
        let budget = Budget::take(attempt, width, height)?;
        let read = exr::image::read::read().no_deep_data().largest_resolution_level().rgba_channels(
            |size, _| (size, vec![0.0f32; size.area() * CHANNELS]),
            |(size, values): &mut (Vec2<usize>, Vec<f32>), position, (r, g, b, a): (f32, f32, f32, f32)| {
                let at = ((size.height() - 1 - position.y()) * size.width() + position.x()) * CHANNELS;
                values[at..at + CHANNELS].copy_from_slice(&[r, g, b, a]);
            },
        );
        // On threads of its own a panic of the decoder would be nobody's.
        let read = read.first_valid_layer().all_attributes().non_parallel();
        let layer = read.from_chunks(chunks).map_err(failed)?.layer_data;
        let samples = match layer.attributes.other.get(&Text::from(SAMPLES)) {
            Some(AttributeValue::I32(samples)) => samples.unsigned_abs(),
            _ => samples,
        };
        let (_, values) = layer.channel_data.pixels;
        Ok(Self::new(width, height, samples, values, budget))
    }

    /// Fails unless a region is within the image.
    fn contains(&self, region: Region) -> Result<()> {
        let Region { x, y, width, height } = region;
        let fits = |at: u32, length: u32, side: u32| {
            length > 0 && at.checked_add(length).is_some_and(|end| end <= side)
        };
        if !fits(x, width, self.0.width) || !fits(y, height, self.0.height) {
            let (w, h) = self.size();
            let message = format!("region {width}x{height} at {x},{y} is not within the image of {w}x{h}");
            return Err(CapabilityError::new(Code::InvalidArgument, message));
        }
        Ok(())
    }

    /// Counts the floats of a region that is within the image and not too large.
    pub fn floats(&self, region: Region) -> Result<usize> {
        self.contains(region)?;
        let area = u64::from(region.width) * u64::from(region.height);
        if area > MAX_AREA {
            let message = format!("a call takes at most {MAX_AREA} pixels, not {area}; do it in parts");
            return Err(CapabilityError::new(Code::Limit, message));
        }
        Ok(area as usize * CHANNELS)
    }

    /// Says where the pixels of a region are: row by row, or all in one part if its rows
    /// are whole.
    fn parts(&self, region: Region) -> impl Iterator<Item = std::ops::Range<usize>> + use<> {
        let stride = self.0.width as usize;
        let (rows, length) = match region.width == self.0.width {
            true => (1, region.width as usize * region.height as usize),
            false => (region.height, region.width as usize),
        };
        (region.y..region.y + rows).map(move |y| {
            let start = (y as usize * stride + region.x as usize) * CHANNELS;
            start..start + length * CHANNELS
        })
    }
}

/// Copies pixels, in order, into the parts that it is given.
fn copying(mut pixels: &[f32]) -> impl FnMut(&mut [f32]) {
    move |part| {
        let (next, rest) = pixels.split_at(part.len());
        part.copy_from_slice(next);
        pixels = rest;
    }
}
