//! What a plugin may ask its host for: what it wants, as far as its operator and its job allow it.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

use super::{CapabilityError, Code, Result};
use crate::terms::Capability;

/// What the operator allows, by the plugins' names; one that is not named may use all.
pub type Allowed = Arc<BTreeMap<String, Vec<Capability>>>;

/// What one release may use.
#[derive(Debug, Clone)]
pub struct Grants {
    /// Its plugin's name.
    pub plugin: String,
    /// What it wants.
    pub wanted: Vec<Capability>,
    /// What its job allows; all if absent.
    pub ceiling: Option<Vec<Capability>>,
    /// What the operator allows at this moment.
    pub allowed: watch::Receiver<Allowed>,
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
        if self.allowed.borrow().get(plugin).is_some_and(|allowed| !allowed.contains(&capability)) {
            return denied(format!(
                "{plugin} may not use '{capability}', which the operator does not grant it\n\
                 the operator can add it to plugin.{plugin}.capabilities in the configuration"
            ));
        }
        if self.ceiling.as_ref().is_some_and(|ceiling| !ceiling.contains(&capability)) {
            return denied(format!(
                "{plugin} may not use '{capability}' in this job, which allows less\n\
                 whoever submits it can add it to --allow"
            ));
        }
        Ok(())
    }

    /// Waits until a capability is not granted any more, and says why.
    pub async fn revoked(&self, capability: Capability) -> CapabilityError {
        let mut allowed = self.allowed.clone();
        loop {
            if let Err(error) = self.check(capability) {
                return error;
            }
            if allowed.changed().await.is_err() {
                // Nobody is left who could.
                std::future::pending::<()>().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn granted_is_what_is_wanted_and_allowed_by_operator_and_job() {
        let allows = |list: &[Capability]| -> Allowed {
            Arc::new([("probe".to_owned(), list.to_vec())].into_iter().collect())
        };
        let (operator, allowed) = watch::channel(allows(&[Capability::Blender, Capability::State]));
        let grants = Grants {
            plugin: "probe".to_owned(),
            wanted: vec![Capability::Blender, Capability::Image],
            ceiling: None,
            allowed,
        };
        assert!(grants.check(Capability::Blender).is_ok());
        assert!(grants.check(Capability::Host).is_ok());
        let error = grants.check(Capability::Image).unwrap_err();
        assert!(error.code == Code::Denied && error.message.contains("plugin.probe.capabilities"));
        assert!(grants.check(Capability::State).unwrap_err().message.contains("plugin.toml"));
        let less = Grants { ceiling: Some(vec![Capability::Image]), ..grants.clone() };
        assert!(less.check(Capability::Blender).unwrap_err().message.contains("--allow"));
        // What is taken away is gone for those that have it, too.
        let watched = grants.clone();
        let revoked = tokio::spawn(async move { watched.revoked(Capability::Blender).await });
        operator.send_replace(Allowed::default());
        assert!(grants.check(Capability::Image).is_ok());
        operator.send_replace(allows(&[]));
        assert_eq!(revoked.await.unwrap().code, Code::Denied);
        assert!(grants.check(Capability::Blender).is_err());
    }
}
