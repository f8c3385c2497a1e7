//! A few bytes that outlive an attempt, scoped to this plugin and job.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Result;
use crate::sys::hotshoe::plugin::state as sys;

/// Reads the value that was set under `key`, if one was.
pub fn get<T: DeserializeOwned>(key: &str) -> Result<Option<T>> {
    let bytes = sys::get(key)?;
    Ok(bytes.map(|bytes| serde_json::from_slice(&bytes)).transpose()?)
}

/// Keeps a value under `key`, in place of what was there.
pub fn set(key: &str, value: &impl Serialize) -> Result<()> {
    Ok(sys::set(key, &serde_json::to_vec(value)?)?)
}

/// Forgets `key`.
pub fn delete(key: &str) -> Result<()> {
    Ok(sys::delete(key)?)
}
