//! How many connections are let in, and from where.

use zimage_edge::{Policy, Resources};

/// Bounds of the API's listener.
#[derive(Clone, Debug)]
pub struct Intake {
    /// Connections of clients.
    pub connections: usize,
    /// Hosts and origins that are taken.
    pub policy: Policy,
}

impl Default for Intake {
    /// By the memory and the files that the process may use; any host, no other origin.
    fn default() -> Self {
        Self {
            connections: Resources::read().connections(),
            policy: Policy::default(),
        }
    }
}
