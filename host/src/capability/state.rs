//! `state`: a few bytes that outlive an attempt, and the host.

use super::{CapabilityError, Code, Result, check_key};
use crate::store::Store;
use crate::terms::JobId;

/// The largest value, in bytes.
pub const MAX_VALUE: usize = 1024 * 1024;
/// The largest sum of all values of a job, in bytes.
pub const MAX_TOTAL: usize = 64 * 1024 * 1024;

/// The values of one release in one job.
#[derive(Debug, Clone)]
pub struct State {
    store: Store,
    job: JobId,
    /// The digest of the release.
    release: String,
}

impl State {
    /// Makes the state that the release with a digest has of a job.
    pub fn new(store: Store, job: JobId, release: String) -> Self {
        Self { store, job, release }
    }

    /// Returns what was set under a key.
    pub async fn get(&self, key: String) -> Result<Option<Vec<u8>>> {
        check_key(&key)?;
        Ok(self.store.state(self.job, self.release.clone(), key).await?)
    }

    /// Keeps a value under a key.
    pub async fn set(&self, key: String, value: Vec<u8>) -> Result<()> {
        check_key(&key)?;
        let limit = |what, limit, size| {
            let message = format!("{what} takes at most {limit} bytes of state, not {size}");
            Err(CapabilityError::new(Code::Limit, message))
        };
        if value.len() > MAX_VALUE {
            return limit("a key", MAX_VALUE, value.len());
        }
        let (job, release) = (self.job, self.release.clone());
        let sum = self.store.write_patiently(move |writing| {
            let sum = writing.state_beside(job, &release, &key)? + value.len();
            if sum <= MAX_TOTAL {
                writing.set_state(job, &release, &key, &value)?;
            }
            Ok(sum)
        });
        match sum.await? {
            sum if sum > MAX_TOTAL => limit("a job", MAX_TOTAL, sum),
            _ => Ok(()),
        }
    }

    /// Forgets a key.
    pub async fn delete(&self, key: String) -> Result<()> {
        check_key(&key)?;
        let (job, release) = (self.job, self.release.clone());
        Ok(self.store.write_patiently(move |writing| writing.delete_state(job, &release, &key)).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::jobs::tests::row;

    async fn state() -> (tempfile::TempDir, State) {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::open(&temp.path().join("a.db")).unwrap();
        let job = row();
        let id = job.id;
        store.write(move |writing| writing.insert_job(&job, &[])).await.unwrap();
        (temp, State::new(store, id, "a".to_owned()))
    }

    #[tokio::test]
    async fn a_release_never_reads_what_a_later_one_wrote() {
        let (_temp, first) = state().await;
        let second = State { release: "b".to_owned(), ..first.clone() };
        let get = async |state: &State| state.get("k".to_owned()).await.unwrap();
        set(&first, "k", vec![1]).await.unwrap();
        let job = first.job;
        first.store.write(move |writing| writing.hand_over_state(job, "a", "b")).await.unwrap();
        assert_eq!(get(&second).await, Some(vec![1]));
        set(&second, "k", vec![2]).await.unwrap();
        assert_eq!((get(&first).await, get(&second).await), (Some(vec![1]), Some(vec![2])));
        // Moved once more, it begins with what the first one holds now.
        set(&first, "k", vec![3]).await.unwrap();
        first.store.write(move |writing| writing.hand_over_state(job, "a", "b")).await.unwrap();
        assert_eq!(get(&second).await, Some(vec![3]));
    }

    async fn set(state: &State, key: &str, value: Vec<u8>) -> Result<()> {
        state.set(key.to_owned(), value).await
    }

    #[tokio::test]
    async fn values_are_set_replaced_and_forgotten() {
        let (_temp, state) = state().await;
        let get = async || state.get("a".to_owned()).await.unwrap();
        assert_eq!(get().await, None);
        set(&state, "a", vec![1]).await.unwrap();
        set(&state, "a", vec![2]).await.unwrap();
        assert_eq!(get().await, Some(vec![2]));
        state.delete("a".to_owned()).await.unwrap();
        state.delete("a".to_owned()).await.unwrap();
        assert_eq!(get().await, None);
    }

    #[tokio::test]
    async fn both_limits_are_kept_and_named() {
        let (_temp, state) = state().await;
        let error = set(&state, "a", vec![0; MAX_VALUE + 1]).await.unwrap_err();
        assert_eq!(error.code, Code::Limit);
        assert!(error.message.contains("1048576"), "{error}");
        for n in 0..MAX_TOTAL / MAX_VALUE {
            set(&state, &format!("k{n}"), vec![0; MAX_VALUE]).await.unwrap();
        }
        assert_eq!(set(&state, "more", vec![0]).await.unwrap_err().code, Code::Limit);
        set(&state, "k0", vec![0; MAX_VALUE]).await.unwrap();
    }

    #[tokio::test]
    async fn keys_are_names_and_never_paths() {
        let (_temp, state) = state().await;
        let long = "x".repeat(129);
        for key in ["", ".", "..", "../a", "a/b", "a\\b", "a\0b", ".hidden", "ä", &long] {
            let error = state.get(key.to_owned()).await.unwrap_err();
            assert_eq!(error.code, Code::InvalidArgument, "{key}");
        }
    }
}
