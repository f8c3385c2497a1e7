//! `state`: a few bytes that outlive an attempt.
//!
//! Kept in memory, for one plugin and one job.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use super::{CapabilityError, Code, Result, check_key};

/// The largest value, in bytes.
pub const MAX_VALUE: usize = 1024 * 1024;
/// The largest sum of all values of a job, in bytes.
pub const MAX_TOTAL: usize = 64 * 1024 * 1024;

/// The values of one plugin in one job; clones share them.
#[derive(Debug, Clone, Default)]
pub struct State(Arc<Mutex<HashMap<String, Vec<u8>>>>);

impl State {
    /// Returns what was set under a key.
    pub fn get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        check_key(key)?;
        Ok(self.values().get(key).cloned())
    }

    /// Keeps a value under a key.
    pub fn set(&self, key: &str, value: Vec<u8>) -> Result<()> {
        check_key(key)?;
        let mut values = self.values();
        let others: usize = values.iter().filter(|(k, _)| *k != key).map(|(_, v)| v.len()).sum();
        let limit = |what, limit, size| {
            let message = format!("{what} takes at most {limit} bytes of state, not {size}");
            Err(CapabilityError::new(Code::Limit, message))
        };
        if value.len() > MAX_VALUE {
            return limit("a key", MAX_VALUE, value.len());
        }
        if others + value.len() > MAX_TOTAL {
            return limit("a job", MAX_TOTAL, others + value.len());
        }
        values.insert(key.to_owned(), value);
        Ok(())
    }

    /// Forgets a key.
    pub fn delete(&self, key: &str) -> Result<()> {
        check_key(key)?;
        self.values().remove(key);
        Ok(())
    }

    fn values(&self) -> std::sync::MutexGuard<'_, HashMap<String, Vec<u8>>> {
        self.0.lock().expect("no code panics under this lock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_set_replaced_and_forgotten() {
        let state = State::default();
        assert_eq!(state.get("a").unwrap(), None);
        state.set("a", vec![1]).unwrap();
        state.set("a", vec![2]).unwrap();
        assert_eq!(state.get("a").unwrap(), Some(vec![2]));
        state.delete("a").unwrap();
        state.delete("a").unwrap();
        assert_eq!(state.get("a").unwrap(), None);
    }

    #[test]
    fn both_limits_are_kept_and_named() {
        let state = State::default();
        let error = state.set("a", vec![0; MAX_VALUE + 1]).unwrap_err();
        assert_eq!(error.code, Code::Limit);
        assert!(error.message.contains("1048576"), "{error}");
        for n in 0..MAX_TOTAL / MAX_VALUE {
            state.set(&format!("k{n}"), vec![0; MAX_VALUE]).unwrap();
        }
        assert_eq!(state.set("more", vec![0]).unwrap_err().code, Code::Limit);
        state.set("k0", vec![0; MAX_VALUE]).unwrap();
    }

    #[test]
    fn keys_are_names_and_never_paths() {
        let long = "x".repeat(129);
        for key in ["", ".", "..", "../a", "a/b", "a\\b", "a\0b", ".hidden", "ä", &long] {
            assert_eq!(State::default().get(key).unwrap_err().code, Code::InvalidArgument, "{key}");
        }
    }
}
