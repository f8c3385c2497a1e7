//! The libraries of the system that a `bpy` environment wants.

use std::path::Path;

use super::BlenderError;
use super::tool::{ask, command, failed};

/// Debian's packages of the libraries that the wheels want from the system.
const PACKAGES: [(&str, &str); 13] = [
    ("libX11.so.6", "libx11-6"),
    ("libxcb.so.1", "libxcb1"),
    ("libXext.so.6", "libxext6"),
    ("libXrender.so.1", "libxrender1"),
    ("libXfixes.so.3", "libxfixes3"),
    ("libXi.so.6", "libxi6"),
    ("libXxf86vm.so.1", "libxxf86vm1"),
    ("libxkbcommon.so.0", "libxkbcommon0"),
    ("libSM.so.6", "libsm6"),
    ("libICE.so.6", "libice6"),
    ("libGL.so.1", "libgl1"),
    ("libGLX.so.0", "libglx0"),
    ("libEGL.so.1", "libegl1"),
];

/// What a `bpy` environment misses of its system.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Missing {
    /// Debian's packages of libraries that it wants.
    pub packages: Vec<String>,
    /// Libraries whose package is not known.
    pub libraries: Vec<String>,
}

impl Missing {
    /// Finds what a `bpy` environment misses of its system.
    pub async fn find(python: &Path) -> Result<Self, BlenderError> {
        let module = "import importlib.util as u; print(u.find_spec('bpy').origin)";
        let module =
            ask(python, module).await.map_err(|log| failed("there is no bpy in the environment", &log))?;
        let mut ldd = command("ldd");
        let output = ldd.arg(module).output().await.map_err(BlenderError::io("run ldd"))?;
        let output = String::from_utf8_lossy(&output.stdout).into_owned();
        let unfound = output.lines().filter(|line| line.ends_with("not found"));
        let mut unfound: Vec<&str> = unfound.filter_map(|line| line.split_whitespace().next()).collect();
        // Loaded only when something is drawn without Cycles, so no one asks for it by itself.
        if ask(python, "import ctypes; ctypes.CDLL('libEGL.so.1')").await.is_err() {
            unfound.push("libEGL.so.1");
        }
        Ok(Self::of(&unfound))
    }

    fn of(libraries: &[&str]) -> Self {
        let mut missing = Self::default();
        for library in libraries {
            let known = PACKAGES.iter().find(|(name, _)| name == library);
            let (list, name) = match known {
                Some((_, package)) => (&mut missing.packages, *package),
                None => (&mut missing.libraries, *library),
            };
            if !list.iter().any(|there| there == name) {
                list.push(name.to_owned());
            }
        }
        missing
    }

    /// Whether nothing is missing.
    pub fn is_empty(&self) -> bool {
        self.packages.is_empty() && self.libraries.is_empty()
    }
}

/// Says how to get what is missing, a line each.
impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { packages, libraries } = self;
        if !packages.is_empty() {
            write!(f, "apt-get install --no-install-recommends {}", packages.join(" "))?;
        }
        if !libraries.is_empty() {
            let line = if packages.is_empty() { "" } else { "\n" };
            write!(f, "{line}install what holds {}", libraries.join(" "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_libraries_are_told_as_packages_once_each_and_unknown_ones_by_name() {
        let missing = Missing::of(&["libX11.so.6", "libX11.so.6", "libXext.so.6"]);
        assert_eq!(missing.to_string(), "apt-get install --no-install-recommends libx11-6 libxext6");
        let missing = Missing::of(&["libGL.so.1", "libodd.so.3"]);
        assert_eq!(
            missing.to_string(),
            "apt-get install --no-install-recommends libgl1\ninstall what holds libodd.so.3"
        );
        assert!(Missing::of(&[]).is_empty());
    }
}
