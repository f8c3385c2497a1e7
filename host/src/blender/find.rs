//! Finds the Blender to use.

use std::env;
use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::{Blender, BlenderError};
use crate::config::DataDir;

/// The variable that names a Blender.
pub const VARIABLE: &str = "HOTSHOE_BLENDER";

/// A Blender, and why it was looked at.
#[derive(Debug, Clone)]
pub struct Found {
    /// Where it comes from, e.g. `--blender`.
    pub source: &'static str,
    /// How to run it.
    pub blender: Blender,
}

/// Lists every Blender of this machine, the one to use first.
///
/// What is named (by `given`, then by the variable) must be there; the rest is
/// what can be found: installed by Hotshoe, the newest first, then on the PATH.
pub fn all(given: Option<&Path>, data: &DataDir) -> Result<Vec<Found>, BlenderError> {
    let mut found = Vec::new();
    let variable = env::var_os(VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from);
    let named = given.map(|path| ("--blender", path)).or(variable.as_deref().map(|path| (VARIABLE, path)));
    if let Some((source, path)) = named {
        found.push(Found { source, blender: at(path, source)? });
    }
    found
        .extend(installed(data).into_iter().map(|blender| Found { source: "installed by Hotshoe", blender }));
    if let Some(path) = on_path("blender") {
        found.push(Found { source: "on PATH", blender: Blender::Program(path) });
    }
    Ok(found)
}

/// Lists what Hotshoe installed, the newest version first.
pub fn installed(data: &DataDir) -> Vec<Blender> {
    let folders = std::fs::read_dir(data.blenders()).into_iter().flatten().flatten();
    let mut versions: Vec<(Vec<u32>, PathBuf)> = folders
        .filter_map(|folder| {
            let version =
                folder.file_name().to_str()?.split('.').map(|n| n.parse().ok()).collect::<Option<_>>()?;
            Some((version, folder.path().join("bin/python")))
        })
        .filter(|(_, python)| is_program(python))
        .collect();
    versions.sort();
    versions.into_iter().rev().map(|(_, python)| Blender::Module(python)).collect()
}

/// Returns the first program of this name on the PATH.
pub fn on_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(name)).find(|file| is_program(file))
}

/// Reads a path that somebody gave: a Blender, its folder, or a Python with `bpy`.
fn at(path: &Path, source: &'static str) -> Result<Blender, BlenderError> {
    let by_name = path.to_str().filter(|name| !name.contains('/') && !path.exists()).and_then(on_path);
    let path = by_name.as_deref().unwrap_or(path);
    let inside = ["bin/python", "blender"].map(|name| path.join(name));
    let program = match path.is_dir() {
        true => inside.into_iter().find(|file| is_program(file)),
        false => Some(path.to_owned()).filter(|file| is_program(file)),
    };
    let program = program.ok_or_else(|| BlenderError::Missing {
        what: format!("{source} names {}, which is no program that can be run", path.display()),
        hint: "name a Blender, its folder, or a Python that has the bpy module".to_owned(),
    })?;
    let program = std::path::absolute(&program).map_err(BlenderError::io("find the current folder"))?;
    let is_python =
        program.file_name().and_then(OsStr::to_str).is_some_and(|name| name.starts_with("python"));
    Ok(if is_python { Blender::Module(program) } else { Blender::Program(program) })
}

fn is_program(file: &Path) -> bool {
    file.metadata().is_ok_and(|info| info.is_file() && info.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(path: &Path) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "").unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn installed_blenders_are_sorted_by_version_and_broken_ones_left_out() {
        let temp = tempfile::tempdir().unwrap();
        let data = DataDir::open(Some(temp.path().to_owned())).unwrap();
        for version in ["4.5.9", "4.5.15", "5.2.3"] {
            program(&data.blenders().join(version).join("bin/python"));
        }
        std::fs::create_dir_all(data.blenders().join("9.9.9/bin")).unwrap();
        program(&data.blenders().join("4.5.99.partial/bin/python"));
        let versions = ["5.2.3", "4.5.15", "4.5.9"];
        let expected = versions.map(|v| Blender::Module(data.blenders().join(v).join("bin/python")));
        assert_eq!(installed(&data), expected);
    }

    #[test]
    fn a_path_may_be_a_program_a_folder_or_a_python() {
        let temp = tempfile::tempdir().unwrap();
        let (folder, venv) = (temp.path().join("blender-4.5"), temp.path().join("venv"));
        program(&folder.join("blender"));
        program(&venv.join("bin/python"));
        assert_eq!(at(&folder, "x").unwrap(), Blender::Program(folder.join("blender")));
        assert_eq!(at(&venv, "x").unwrap(), Blender::Module(venv.join("bin/python")));
        assert!(at(&temp.path().join("nothing"), "x").is_err());
    }
}
