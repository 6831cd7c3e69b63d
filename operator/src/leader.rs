//! One of the operator's replicas acts; the lease says which.

use crate::args::Args;
use kube::Client;
use kube_lease_manager::{LeaseManager, LeaseManagerBuilder, LeaseManagerError};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Name of the Lease.
const LEASE: &str = "zimage-operator";
/// Seconds after which a silent leader is replaced.
const DURATION: u64 = 15;
/// Seconds before that at which the leader renews.
const GRACE: u64 = 5;

/// The running election.
pub struct Election {
    leads: watch::Receiver<bool>,
    task: JoinHandle<Result<LeaseManager, LeaseManagerError>>,
}

impl Election {
    /// Stands for election.
    ///
    /// # Errors
    /// When the Lease cannot be read or made.
    pub async fn start(client: Client, args: &Args) -> Result<Self, LeaseManagerError> {
        let manager = LeaseManagerBuilder::new(client, LEASE)
            .with_namespace(&args.lease_namespace)
            .with_identity(&args.identity)
            .with_duration(DURATION)
            .with_grace(GRACE)
            .build()
            .await?;
        let (leads, task) = manager.watch().await;
        Ok(Self { leads, task })
    }

    /// Returns once this process leads. `false`: the election ended before.
    pub async fn won(&mut self) -> bool {
        self.leads.wait_for(|leads| *leads).await.is_ok()
    }

    /// Returns once this process leads no more.
    pub async fn lost(&mut self) {
        // An election that ended is lost as well.
        let _ended = self.leads.wait_for(|leads| !*leads).await;
    }

    /// Gives the lease back, so that another replica need not wait for its end.
    ///
    /// # Errors
    /// When the API server cannot be told; the lease then runs out.
    pub async fn release(self) -> Result<(), LeaseManagerError> {
        drop(self.leads);
        match self.task.await {
            Ok(outcome) => outcome.map(drop),
            Err(error) => {
                tracing::warn!(%error, "the election's task did not end well");
                Ok(())
            }
        }
    }
}
