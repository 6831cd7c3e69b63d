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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake_api::{self, Call, refusal};
    use axum::http::Method;
    use clap::Parser;
    use jiff::Timestamp;
    use serde_json::{Value, json};
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    const PATIENCE: Duration = Duration::from_secs(30);

    /// The lease of an API server; `None` before anybody made one.
    type Lease = Arc<Mutex<Option<Value>>>;

    fn api(lease: &Lease) -> Client {
        let lease = Arc::clone(lease);
        fake_api::client(move |call| answer(&mut lease.lock().unwrap(), call))
    }

    fn answer(lease: &mut Option<Value>, call: Call) -> (u16, Value) {
        match (call.method, lease) {
            (Method::GET, None) => refusal(404, "not found"),
            (Method::POST, lease) => (201, lease.insert(call.body).clone()),
            (Method::PATCH, Some(lease)) => {
                for (name, value) in call.body["spec"].as_object().unwrap() {
                    lease["spec"][name] = value.clone();
                }
                (200, lease.clone())
            }
            (_, Some(lease)) => (200, lease.clone()),
            (method, None) => panic!("{method} of no lease"),
        }
    }

    fn held_by(holder: &str, since: Timestamp) -> Lease {
        let spec = json!({"holderIdentity": holder, "renewTime": since.to_string(), "acquireTime": since.to_string(),
            "leaseDurationSeconds": DURATION, "leaseTransitions": 1});
        let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": LEASE}, "spec": spec});
        Arc::new(Mutex::new(Some(lease)))
    }

    fn holder(lease: &Lease) -> Option<String> {
        let lease = lease.lock().unwrap();
        let holder = lease.as_ref()?["spec"]["holderIdentity"].as_str();
        holder.map(str::to_owned)
    }

    async fn stand(lease: &Lease) -> Election {
        let args = Args::parse_from(["zimage-operator", "--identity=me"]);
        Election::start(api(lease), &args).await.unwrap()
    }

    async fn wins(election: &mut Election, within: Duration) -> bool {
        let won = tokio::time::timeout(within, election.won()).await;
        won.unwrap_or(false)
    }

    #[tokio::test]
    async fn the_first_one_leads_and_gives_the_lease_back_at_its_end() {
        let lease = Lease::default();
        let mut election = stand(&lease).await;
        assert!(wins(&mut election, PATIENCE).await);
        assert_eq!(holder(&lease).as_deref(), Some("me"));
        election.release().await.unwrap();
        assert_eq!(holder(&lease), None);
    }

    #[tokio::test]
    async fn a_silent_leader_is_replaced() {
        let lease = held_by(
            "other",
            Timestamp::now() - Duration::from_secs(DURATION + 1),
        );
        let mut election = stand(&lease).await;
        assert!(wins(&mut election, PATIENCE).await);
        assert_eq!(holder(&lease).as_deref(), Some("me"));
    }

    #[tokio::test]
    async fn a_leader_that_renews_is_not_replaced() {
        let lease = held_by("other", Timestamp::now());
        let mut election = stand(&lease).await;
        assert!(!wins(&mut election, Duration::from_secs(1)).await);
        assert_eq!(holder(&lease).as_deref(), Some("other"));
    }
}
