//! Reads which Blender wrote a .blend file.
//!
//! The first bytes of the file, after unpacking, are `BLENDER`, a pointer size,
//! a byte order and the version: `BLENDER-v304`, and from 5.0 on
//! `BLENDER17-01v0500`. Compressed files are gzip (up to 2.93) or zstd.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::path::Path;

use super::BlenderError;
use super::wire::Hello;

const LENGTH: usize = 17;

/// Why a file is not a scene.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    /// It cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is something else.
    #[error("not a .blend file")]
    NotBlend,
}

/// Returns the version of the Blender that wrote the scene, e.g. `(4, 5)`.
pub fn version(scene: &Path) -> Result<(u32, u32), HeaderError> {
    // Opening a pipe would wait for somebody to write into it.
    if !scene.metadata()?.is_file() {
        return Err(io::Error::other("it is no file").into());
    }
    let mut file = BufReader::new(File::open(scene)?);
    let mut magic = [0; 4];
    let count = read_up_to(&mut file, &mut magic)?;
    file.rewind()?;
    let header = match &magic[..count] {
        [0x1f, 0x8b, ..] => unpacked(flate2::bufread::GzDecoder::new(file))?,
        [0x28, 0xb5, 0x2f, 0xfd] => {
            let decoder = ruzstd::decoding::StreamingDecoder::new(file);
            unpacked(decoder.map_err(|_| HeaderError::NotBlend)?)?
        }
        _ => unpacked(file)?,
    };
    parse(&header).ok_or(HeaderError::NotBlend)
}

/// Fails if the scene is newer than the Blender that is to load it.
pub fn check(scene: &Path, blender: &Hello) -> Result<(), BlenderError> {
    let refused = |code: &str, message| BlenderError::Refused { code: code.to_owned(), message };
    let made =
        version(scene).map_err(|error| refused("not-found", format!("cannot read the scene: {error}")))?;
    let (major, minor, _) = blender.blender;
    if made > (major, minor) {
        let (newer, ours) = (format!("{}.{}", made.0, made.1), &blender.blender_version);
        return Err(refused(
            "unsupported",
            format!(
                "the scene was saved by Blender {newer}, which is newer than this Blender {ours}\n\
                 use a Blender {newer} or later: --blender PATH, or `hotshoe blender install`"
            ),
        ));
    }
    Ok(())
}

fn unpacked(mut reader: impl Read) -> Result<Vec<u8>, HeaderError> {
    let mut header = vec![0; LENGTH];
    let count = read_up_to(&mut reader, &mut header).map_err(|_| HeaderError::NotBlend)?;
    header.truncate(count);
    Ok(header)
}

fn read_up_to(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut count = 0;
    while count < buffer.len() {
        match reader.read(&mut buffer[count..])? {
            0 => break,
            n => count += n,
        }
    }
    Ok(count)
}

fn parse(header: &[u8]) -> Option<(u32, u32)> {
    let rest = header.strip_prefix(b"BLENDER")?;
    let digits = match rest.first()? {
        b'-' | b'_' => rest.get(2..5)?,
        _ => rest.get(6..10)?,
    };
    let number: u32 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some((number / 100, number % 100))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_every_age_tell_their_version() {
        let check = |header: &[u8], expected| assert_eq!(parse(header), expected);
        check(b"BLENDER-v304REND\0", Some((3, 4)));
        check(b"BLENDER_v279REND\0", Some((2, 79)));
        check(b"BLENDER17-01v0500", Some((5, 0)));
        check(b"BLENDER17-01v0502", Some((5, 2)));
        check(b"BLENDER-v3", None);
        check(b"\x89PNG\r\n\x1a\n", None);
        check(b"", None);
    }
}
