//! `state`: a few bytes that outlive an attempt, and the host.

use super::usage::Hit;
use super::{CapabilityError, Code, Result, check_key};
use crate::store::Store;
use crate::terms::{JobId, size};

/// The largest value, in bytes.
pub const MAX_VALUE: usize = 1024 * 1024;

/// The values of one release in one job.
#[derive(Debug, Clone)]
pub struct State {
    store: Store,
    job: JobId,
    /// The digest of the release.
    release: String,
    /// The largest sum of all values, in bytes.
    most: u64,
}

impl State {
    /// Makes the state that the release with a digest has of a job.
    pub fn new(store: Store, job: JobId, release: String, most: u64) -> Self {
        Self { store, job, release, most }
    }

    /// Returns what was set under a key.
    pub async fn get(&self, key: String) -> Result<Option<Vec<u8>>> {
        check_key(&key)?;
        Ok(self.store.state(self.job, self.release.clone(), key).await?)
    }

    /// Keeps a value under a key.
    pub async fn set(&self, key: String, value: Vec<u8>) -> Result<()> {
        check_key(&key)?;
        if value.len() > MAX_VALUE {
            let message = format!("a key takes at most {MAX_VALUE} bytes of state, not {}", value.len());
            return Err(CapabilityError::new(Code::Limit, message));
        }
        let (job, release, most) = (self.job, self.release.clone(), self.most);
        let has_room = self.store.write_patiently(move |writing| {
            let sum = writing.state_beside(job, &release, &key)? + value.len();
            let has_room = sum as u64 <= most;
            if has_room {
                writing.set_state(job, &release, &key, &value)?;
            }
            Ok(has_room)
        });
        match has_room.await? {
            true => Ok(()),
            false => Err(Hit::new("state_mib", format!("{} of state", size(most))).into()),
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
        (temp, State::new(store, id, "a".to_owned(), 4 * MAX_VALUE as u64))
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
        for n in 0..4 {
            set(&state, &format!("k{n}"), vec![0; MAX_VALUE]).await.unwrap();
        }
        let error = set(&state, "more", vec![0]).await.unwrap_err();
        assert_eq!(error.message, "beyond the limit of 4 MiB of state (limits.state_mib)");
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
