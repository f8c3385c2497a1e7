//! Names that a plugin may give to pictures.

use std::path::{Component, Path};

use super::{CapabilityError, Code, Result};

/// Fails unless `name` can be the name of a picture: one part of a path.
pub fn check_name(name: &str) -> Result<()> {
    let odd = |c: char| c.is_control() || matches!(c, '/' | '\\' | ':' | '*' | '?' | '"' | '<' | '>' | '|');
    let ends_well = !name.ends_with(['.', ' ']);
    if (1..=128).contains(&name.len()) && !name.contains(odd) && !name.starts_with('.') && ends_well {
        // Windows takes these for devices, whatever their ending; pictures are shared with it.
        let stem = name.split('.').next().unwrap_or_default().trim_end().to_ascii_uppercase();
        let is_numbered = |kind| {
            stem.strip_prefix(kind)
                .is_some_and(|n: &str| n.len() == 1 && n != "0" && n.as_bytes()[0].is_ascii_digit())
        };
        if !["CON", "PRN", "AUX", "NUL"].contains(&stem.as_str())
            && !is_numbered("COM")
            && !is_numbered("LPT")
        {
            return Ok(());
        }
    }
    let start: String = name.chars().take(40).collect();
    Err(CapabilityError::new(
        Code::InvalidArgument,
        format!(
            "'{start}' is no file name: 1 to 128 bytes without / \\ : * ? \" < > |, not beginning with a dot, \
             nor ending with one or a space, and none that Windows keeps for devices"
        ),
    ))
}

/// Fails if a file is hidden that a scene has named, or lies in a hidden folder: other programs
/// keep there what they obey.
pub fn check_written(name: &Path) -> Result<()> {
    let is_hidden = |part: Component<'_>| part.as_os_str().as_encoded_bytes().starts_with(b".");
    match name.components().any(is_hidden) {
        true => {
            let message = format!("the scene would write the hidden file {}", name.display());
            Err(CapabilityError::new(Code::Denied, message))
        }
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_names() {
        let long = "x".repeat(129);
        let windows = ["CON", "nul.png", "Com1", "lpt9.a.b", "aux .x", "a.", "a "];
        for name in ["", "..", "a/b", "a\\b", "/a", "C:a", "a\0", ".a", "a\nb", &long].iter().chain(&windows)
        {
            assert!(check_name(name).is_err(), "{name}");
        }
        for name in ["shot_####", "größe 1", "a.b", "console", "com", "com0", "com10", "auxiliary.1"] {
            assert!(check_name(name).is_ok(), "{name}");
        }
    }

    #[test]
    fn hidden_files_are_not_written() {
        for name in [".git/hooks/pre-commit", "a/.b", ".bashrc"] {
            assert!(check_written(Path::new(name)).is_err(), "{name}");
        }
        assert!(check_written(Path::new("passes.1/z.exr")).is_ok());
    }
}
