//! The last status that was written for each deployment: the cache of deployments may be behind it.

use crate::component::DeploymentRef;
use kube::ResourceExt;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use zimage_crds::{ZImageDeployment, ZImageDeploymentStatus};

/// What was written. Bounded by the number of deployments.
#[derive(Debug, Default)]
pub struct Written(Mutex<HashMap<DeploymentRef, Entry>>);

#[derive(Clone, Debug)]
struct Entry {
    uid: Option<String>,
    version: Option<String>,
    status: ZImageDeploymentStatus,
}

impl Written {
    /// The status as it is.
    pub fn last_status(&self, owner: &ZImageDeployment) -> ZImageDeploymentStatus {
        let written = self.entry(owner).map(|written| written.status);
        written.or(owner.status.clone()).unwrap_or_default()
    }

    /// The version that a status is written on: the cache's when it has our last one, and else that one's.
    pub(super) fn version(&self, owner: &ZImageDeployment) -> Option<String> {
        let written = self.entry(owner);
        let ahead = written.filter(|written| owner.status.as_ref() != Some(&written.status));
        ahead.map_or_else(|| owner.resource_version(), |written| written.version)
    }

    /// Takes note of what was written for `owner`, and the version that the object has with it.
    pub(super) fn note(
        &self,
        owner: &ZImageDeployment,
        version: Option<String>,
        status: ZImageDeploymentStatus,
    ) {
        let entry = Entry {
            uid: owner.uid(),
            version,
            status,
        };
        self.lock().insert(DeploymentRef::from_obj(owner), entry);
    }

    /// Trusts the cache again.
    pub(super) fn forget(&self, owner: &ZImageDeployment) {
        self.lock().remove(&DeploymentRef::from_obj(owner));
    }

    /// Forgets deployments that are gone.
    pub(super) fn retain(&self, exists: impl Fn(&DeploymentRef) -> bool) {
        self.lock().retain(|deployment, _| exists(deployment));
    }

    /// What was written last for this very deployment, not for one of its name before it.
    fn entry(&self, owner: &ZImageDeployment) -> Option<Entry> {
        let all = self.lock();
        let entry = all.get(&DeploymentRef::from_obj(owner))?;
        (entry.uid == owner.uid()).then(|| entry.clone())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<DeploymentRef, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
