//! What a job asks for: a plugin, and which of its releases will do.

use std::fmt;
use std::str::FromStr;

use semver::{Op, Version, VersionReq};

use super::Release;
use crate::store::releases::ReleaseRow;

/// How many hexadecimal digits of a digest tell one release from all others.
const DIGITS: std::ops::RangeInclusive<usize> = 12..=64;

/// `name`, `name@^1.2`, `name@=1.2.3` or `name@sha256:...`, by Cargo's rules: `1.2` is
/// `^1.2`, and a pre-release will do only where one is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    /// The plugin's name.
    pub name: String,
    wanted: Wanted,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Wanted {
    Range(VersionReq),
    /// The first digits of a SHA-256.
    Digest(String),
}

/// Why a text is no requirement.
#[derive(Debug, thiserror::Error)]
#[error("'{text}' is not a renderer: {what}\nwrite NAME, NAME@^1.2, NAME@=1.2.3 or NAME@sha256:DIGITS")]
pub struct RequirementError {
    text: String,
    what: String,
}

impl Requirement {
    /// Whether a release will do.
    pub fn accepts(&self, release: &Release) -> bool {
        self.fits(&release.name, &release.version, &release.digest)
    }

    /// Whether a release will do that is known by its row.
    pub fn accepts_row(&self, row: &ReleaseRow) -> bool {
        self.fits(&row.name, &row.version, &row.digest)
    }

    /// Whether a release will do that is named as pins are: `name@1.2.3+digits of its digest`.
    pub fn is_named(&self, release: &str) -> bool {
        let parts = release.split_once('@').and_then(|(name, rest)| Some((name, rest.rsplit_once('+')?)));
        parts.is_some_and(|(name, (version, digits))| match &self.wanted {
            Wanted::Digest(wanted) => self.name == name && wanted.starts_with(digits),
            Wanted::Range(_) => version.parse().is_ok_and(|version| self.fits(name, &version, digits)),
        })
    }

    /// Whether a release will do that has this name, version and digest.
    pub fn fits(&self, name: &str, version: &Version, digest: &str) -> bool {
        self.name == name
            && match &self.wanted {
                Wanted::Range(range) => range.matches(version),
                Wanted::Digest(digits) => digest.starts_with(digits.as_str()),
            }
    }

    /// Whether it names only the plugin.
    pub fn is_any(&self) -> bool {
        self.wanted == Wanted::Range(VersionReq::STAR)
    }

    /// Whether it names one version, or one release: what it stands for never moves.
    pub fn is_exact(&self) -> bool {
        match &self.wanted {
            Wanted::Range(range) => range
                .comparators
                .iter()
                .any(|one| one.op == Op::Exact && one.minor.is_some() && one.patch.is_some()),
            Wanted::Digest(_) => true,
        }
    }
}

impl FromStr for Requirement {
    type Err = RequirementError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let failed = |what: String| RequirementError { text: text.to_owned(), what };
        let (name, wanted) = match text.split_once('@') {
            None => (text, Wanted::Range(VersionReq::STAR)),
            Some((name, wanted)) => match wanted.strip_prefix("sha256:") {
                Some(digits) if DIGITS.contains(&digits.len()) && is_hexadecimal(digits) => {
                    (name, Wanted::Digest(digits.to_owned()))
                }
                Some(_) => {
                    let what = format!("a digest has {} to {} of 0-9 a-f", DIGITS.start(), DIGITS.end());
                    return Err(failed(what));
                }
                None => {
                    let range = wanted.parse().map_err(|error: semver::Error| failed(error.to_string()))?;
                    (name, Wanted::Range(range))
                }
            },
        };
        if name.is_empty() {
            return Err(failed("its name is missing".to_owned()));
        }
        Ok(Self { name: name.to_owned(), wanted })
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.wanted {
            _ if self.is_any() => f.write_str(&self.name),
            Wanted::Range(range) => write!(f, "{}@{range}", self.name),
            Wanted::Digest(digits) => write!(f, "{}@sha256:{digits}", self.name),
        }
    }
}

fn is_hexadecimal(digits: &str) -> bool {
    digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::super::release::Code;
    use super::*;

    fn accepts(requirement: &str, version: &str) -> bool {
        let release = Release {
            name: "draft".to_owned(),
            version: version.parse().unwrap(),
            digest: format!("{:0<64}", "0123456789abcdef"),
            place: None,
            code: Code::Component(Cow::Borrowed(b"")),
        };
        requirement.parse::<Requirement>().unwrap().accepts(&release)
    }

    #[test]
    fn a_requirement_accepts_what_cargo_would() {
        for (requirement, version, expected) in [
            ("draft", "1.2.3", true),
            ("draft", "2.0.0-rc.1", false),
            ("draft@2.0.0-rc.1", "2.0.0-rc.1", true),
            ("other", "1.2.3", false),
            ("draft@1.2", "1.9.0", true),
            ("draft@^1.2", "1.1.9", false),
            ("draft@^0.2", "0.3.0", false),
            ("draft@~1.2", "1.3.0", false),
            ("draft@>=1.2, <3", "2.9.9", true),
            ("draft@=1.2.3", "1.2.4", false),
            ("draft@sha256:0123456789ab", "9.9.9", true),
            ("draft@sha256:0123456789ac", "9.9.9", false),
        ] {
            assert_eq!(accepts(requirement, version), expected, "{requirement} and {version}");
        }
    }

    #[test]
    fn what_is_no_requirement_is_told() {
        for (text, expected) in [
            ("draft@", "unexpected end of input"),
            ("draft@latest", "unexpected character 'l'"),
            ("@1.2", "its name is missing"),
            ("draft@sha256:0123", "a digest has 12 to 64"),
            ("draft@sha256:0123456789AB", "a digest has 12 to 64"),
        ] {
            let error = text.parse::<Requirement>().unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains("NAME@^1.2"), "{error}");
        }
        for text in ["draft", "draft@^1.2", "draft@=1.2.3", "draft@sha256:0123456789ab"] {
            assert_eq!(text.parse::<Requirement>().unwrap().to_string(), text);
        }
    }
}
