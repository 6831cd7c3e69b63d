//! Requests that each pod works on, as this gateway counts them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The counts. Clones share them.
#[derive(Clone, Default)]
pub struct InFlight(Arc<Mutex<HashMap<SocketAddr, usize>>>);

/// One request at a pod, until it is dropped.
pub struct Occupied {
    counts: InFlight,
    pod: SocketAddr,
}

impl InFlight {
    /// Counts one more request at a pod.
    pub fn occupy(&self, pod: SocketAddr) -> Occupied {
        *self.lock().entry(pod).or_default() += 1;
        Occupied {
            counts: self.clone(),
            pod,
        }
    }

    /// Requests at a pod.
    pub fn at(&self, pod: SocketAddr) -> usize {
        self.lock().get(&pod).copied().unwrap_or(0)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SocketAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Occupied {
    fn drop(&mut self) {
        let mut counts = self.counts.lock();
        let count = counts.get(&self.pod).copied().unwrap_or(0);
        if count > 1 {
            counts.insert(self.pod, count - 1);
        } else {
            counts.remove(&self.pod);
        }
    }
}
