//! Threads for what takes long without waiting: parsing, image files. About one a core, so that whatever clients send, the
//! runtime's own threads stay free.

use crate::error::ApiError;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Permits for that many pieces of work at a time. Clones share them.
#[derive(Clone)]
pub(crate) struct Workers(Arc<Semaphore>);

impl Default for Workers {
    /// One for each core.
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self(Arc::new(Semaphore::new(cores)))
    }
}

impl Workers {
    /// Does the work when it is its turn; whoever stops waiting gives the turn up. Work that has begun is done.
    ///
    /// # Errors
    /// When it panics.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let permit = Arc::clone(&self.0).acquire_owned().await;
        let permit = permit.map_err(|error| ApiError::internal("wait for a thread", &error))?;
        let work = move || {
            let done = work();
            drop(permit);
            done
        };
        let done = tokio::task::spawn_blocking(work).await;
        done.map_err(|error| ApiError::internal("do its work", &error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn no_more_work_is_done_at_a_time_than_there_are_permits() {
        let workers = Workers(Arc::new(Semaphore::new(1)));
        let (release, held) = std::sync::mpsc::channel::<()>();
        let first = tokio::spawn({
            let workers = workers.clone();
            async move { workers.run(move || held.recv().is_ok()).await }
        });
        while workers.0.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let second = tokio::time::timeout(Duration::from_millis(50), workers.run(|| ())).await;
        assert!(second.is_err(), "it waits");
        drop(release);
        assert!(!first.await.unwrap().unwrap());
        assert!(workers.run(|| ()).await.is_ok());
    }

    #[tokio::test]
    async fn a_panic_gives_the_permit_back_and_tells_the_client_nothing() {
        let workers = Workers(Arc::new(Semaphore::new(1)));
        assert!(workers.run(|| panic!("secret")).await.is_err());
        assert!(workers.run(|| ()).await.is_ok());
    }
}
