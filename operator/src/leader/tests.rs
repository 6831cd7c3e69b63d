use super::*;
use crate::fake_api::{self, Call, SILENCE, refusal};
use axum::http::Method;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};

const SECOND: Duration = Duration::from_secs(1);

/// The API server's side of one Lease.
#[derive(Default)]
struct Server {
    lease: Option<Value>,
    version: u64,
    /// Writes are not answered any more.
    swallows: bool,
    /// Writes that are not answered are carried out all the same.
    carries_out: bool,
    away: bool,
}

impl Server {
    fn answer(&mut self, call: Call) -> (u16, Value) {
        if self.away {
            return refusal(503, "away");
        }
        if call.method == Method::GET {
            let lease = self.lease.clone().map(|lease| (200, lease));
            return lease.unwrap_or_else(|| refusal(404, "not found"));
        }
        if self.swallows && !self.carries_out {
            return (SILENCE, Value::Null);
        }
        if call.method == Method::PUT && self.lease.is_none() {
            return refusal(404, "not found");
        }
        let version = |lease: &Value| lease["metadata"]["resourceVersion"].clone();
        let known = self.lease.as_ref().map_or(Value::Null, version);
        if version(&call.body) != known {
            return refusal(409, "the object has been modified");
        }
        self.version += 1;
        let mut lease = call.body;
        lease["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.lease = Some(lease.clone());
        match self.swallows {
            true => (SILENCE, Value::Null),
            false => (200, lease),
        }
    }

    fn holder(&self) -> Option<String> {
        let holder = self.lease.as_ref()?["spec"]["holderIdentity"].as_str()?;
        Some(holder.to_owned())
    }
}

type Shared = Arc<Mutex<Server>>;

fn held_by(holder: &str, renewed: &str) -> Shared {
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": "op", "resourceVersion": "1"},
        "spec": {"holderIdentity": holder, "renewTime": renewed, "leaseDurationSeconds": 15, "leaseTransitions": 1}});
    let server = Server {
        lease: Some(lease),
        version: 1,
        ..Server::default()
    };
    Arc::new(Mutex::new(server))
}

fn stand(server: &Shared, identity: &str) -> (Election, Lead) {
    let server = Arc::clone(server);
    let client = fake_api::client(move |call| server.lock().unwrap().answer(call));
    let election = Election::new(client, ("sys", "op"), identity, || {});
    (election, Lead::default())
}

fn holder(server: &Shared) -> Option<String> {
    server.lock().unwrap().holder()
}

async fn wins_within(election: &mut Election, lead: &Lead, limit: Duration) -> bool {
    timeout(limit, election.win(lead)).await.is_ok()
}

#[tokio::test(start_paused = true)]
async fn the_first_one_leads_and_gives_the_lease_back_at_its_end() {
    let server = Shared::default();
    let (mut election, lead) = stand(&server, "me");
    assert!(!lead.holds());
    election.win(&lead).await;
    assert!(lead.holds());
    assert_eq!(holder(&server).as_deref(), Some("me"));
    election.release(&lead).await;
    assert!(!lead.holds());
    assert_eq!(holder(&server), None);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_was_given_back_is_taken_within_a_second() {
    let server = Shared::default();
    let (mut first, first_lead) = stand(&server, "first");
    first.win(&first_lead).await;
    let (mut second, lead) = stand(&server, "second");
    assert!(!wins_within(&mut second, &lead, 3 * SECOND).await);
    first.release(&first_lead).await;
    assert!(wins_within(&mut second, &lead, LOOK + SECOND / 10).await);
}

#[tokio::test(start_paused = true)]
async fn a_silent_leader_is_replaced_after_the_lease_s_duration_whatever_its_clock_said() {
    for renewed in ["2020-01-01T00:00:00.000000Z", "2199-01-01T00:00:00.000000Z"] {
        let server = held_by("other", renewed);
        let (mut election, lead) = stand(&server, "me");
        assert!(
            !wins_within(&mut election, &lead, DURATION - SECOND).await,
            "{renewed}"
        );
        assert_eq!(holder(&server).as_deref(), Some("other"));
        assert!(
            wins_within(&mut election, &lead, 3 * SECOND).await,
            "{renewed}"
        );
        assert_eq!(holder(&server).as_deref(), Some("me"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_restarted_container_of_the_same_pod_goes_on_at_once() {
    let server = held_by("me", "2199-01-01T00:00:00.000000Z");
    let (mut election, lead) = stand(&server, "me");
    assert!(wins_within(&mut election, &lead, SECOND).await);
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_renews_is_not_replaced() {
    let server = Shared::default();
    let (mut first, first_lead) = stand(&server, "first");
    first.win(&first_lead).await;
    let (mut second, second_lead) = stand(&server, "second");
    tokio::select! {
        () = first.keep(&first_lead) => panic!("the lead was lost"),
        won = wins_within(&mut second, &second_lead, 120 * SECOND) => assert!(!won),
    }
    assert!(first_lead.holds());
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_renewals_are_swallowed_stops_five_seconds_before_another_begins() {
    for carries_out in [false, true] {
        let server = Shared::default();
        let (mut first, first_lead) = stand(&server, "first");
        first.win(&first_lead).await;
        let begun = Instant::now();
        server.lock().unwrap().swallows = true;
        server.lock().unwrap().carries_out = carries_out;
        let keeping = tokio::spawn({
            let lead = first_lead.clone();
            async move { first.keep(&lead).await }
        });
        first_lead.lost().await;
        let stopped = begun.elapsed();
        assert!(stopped <= DEADLINE, "{stopped:?}");
        assert!(!first_lead.holds());
        timeout(60 * SECOND, keeping).await.unwrap().unwrap();

        server.lock().unwrap().swallows = false;
        let (mut second, second_lead) = stand(&server, "second");
        second.win(&second_lead).await;
        assert!(begun.elapsed() >= DURATION);
        assert!(!first_lead.holds());
    }
}

#[tokio::test(start_paused = true)]
async fn a_renewal_whose_answer_is_lost_does_not_cost_the_lead() {
    let server = Shared::default();
    let (mut first, lead) = stand(&server, "first");
    first.win(&lead).await;
    server.lock().unwrap().swallows = true;
    server.lock().unwrap().carries_out = true;
    let recover = async {
        sleep(4 * SECOND).await;
        server.lock().unwrap().swallows = false;
        sleep(60 * SECOND).await;
    };
    tokio::select! {
        () = first.keep(&lead) => panic!("the lead was lost"),
        () = recover => {}
    }
    assert!(lead.holds());
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_lease_another_holds_stops_at_its_next_renewal() {
    let server = Shared::default();
    let (mut first, lead) = stand(&server, "first");
    first.win(&lead).await;
    *server.lock().unwrap() = Arc::into_inner(held_by("other", "2026-01-01T00:00:00.000000Z"))
        .unwrap()
        .into_inner()
        .unwrap();
    server.lock().unwrap().version = 7;
    server.lock().unwrap().lease.as_mut().unwrap()["metadata"]["resourceVersion"] = json!("7");
    timeout(RENEWAL + SECOND, first.keep(&lead)).await.unwrap();
    assert!(!lead.holds());
    assert_eq!(holder(&server).as_deref(), Some("other"));
}

#[tokio::test(start_paused = true)]
async fn a_deleted_lease_is_made_again() {
    let server = Shared::default();
    let (mut first, lead) = stand(&server, "first");
    first.win(&lead).await;
    server.lock().unwrap().lease = None;
    let kept = timeout(60 * SECOND, first.keep(&lead)).await;
    assert!(kept.is_err(), "the lead was lost");
    assert_eq!(holder(&server).as_deref(), Some("first"));
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_is_away_is_waited_for() {
    let server = Shared::default();
    server.lock().unwrap().away = true;
    let (mut election, lead) = stand(&server, "me");
    assert!(!wins_within(&mut election, &lead, 600 * SECOND).await);
    server.lock().unwrap().away = false;
    assert!(wins_within(&mut election, &lead, 2 * SECOND).await);
}
