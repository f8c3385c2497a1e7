//! What a plugin may ask its host for: what it wants, as far as the operator allows it.

use super::{CapabilityError, Code, Result};
use crate::terms::Capability;

/// What one release may use.
#[derive(Debug, Clone)]
pub struct Grants {
    /// Its plugin's name.
    pub plugin: String,
    /// What it wants.
    pub wanted: Vec<Capability>,
    /// What the operator allows it; all if absent.
    pub allowed: Option<Vec<Capability>>,
}

impl Grants {
    /// Lists what it wants and the operator does not allow.
    pub fn denied(&self) -> impl Iterator<Item = Capability> {
        self.wanted.iter().copied().filter(|capability| self.check(*capability).is_err())
    }

    /// Fails with what would have to be said where, unless a capability is granted.
    pub fn check(&self, capability: Capability) -> Result<()> {
        let plugin = &self.plugin;
        let denied = |message| Err(CapabilityError::new(Code::Denied, message));
        if capability == Capability::Host {
            return Ok(());
        }
        if !self.wanted.contains(&capability) {
            return denied(format!(
                "{plugin} may not use '{capability}', which it did not ask for\n\
                 its author can add it to `capabilities` in its plugin.toml"
            ));
        }
        if self.allowed.as_ref().is_some_and(|allowed| !allowed.contains(&capability)) {
            return denied(format!(
                "{plugin} may not use '{capability}', which the operator does not grant it\n\
                 the operator can add it to plugin.{plugin}.capabilities in the configuration"
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn granted_is_what_is_wanted_and_allowed() {
        let grants = Grants {
            plugin: "probe".to_owned(),
            wanted: vec![Capability::Blender, Capability::Image],
            allowed: Some(vec![Capability::Blender, Capability::State]),
        };
        assert!(grants.check(Capability::Blender).is_ok());
        assert!(grants.check(Capability::Host).is_ok());
        let error = grants.check(Capability::Image).unwrap_err();
        assert!(error.code == Code::Denied && error.message.contains("plugin.probe.capabilities"));
        assert!(grants.check(Capability::State).unwrap_err().message.contains("plugin.toml"));
        assert!(Grants { allowed: None, ..grants }.check(Capability::Image).is_ok());
    }
}
