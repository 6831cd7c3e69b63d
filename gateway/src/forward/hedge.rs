//! A connection to the first of several pods that takes one.
//!
//! A dead pod's time must not be the client's: the next pod is dialled as well when one has not taken the connection after
//! a moment. Nothing is sent to any before one is connected; what the others make of their dials is kept, or counted.

use crate::metrics::Metrics;
use crate::pods::{Asked, Pod};
use crate::upstream::{Class, Connection};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};
use zimage_crds::Tier;

/// Time after which the next pod is dialled as well. A machine of the same cluster takes a connection in a fraction of it,
/// whatever its processes do.
const NEXT_AFTER: Duration = Duration::from_millis(100);
/// Time for a connection to any of the pods.
const IN_ALL: Duration = Duration::from_secs(3);

/// A pod with a connection to it.
pub(super) struct Reached {
    pub(super) tier: Tier,
    pub(super) asked: Asked,
    pub(super) connection: Connection,
    pub(super) class: Class,
    /// The connection was used before: the pod may have closed it.
    pub(super) is_used: bool,
}

/// A connection to the first of `order` that takes one.
pub(super) async fn connect(
    order: Vec<(Tier, Arc<Pod>)>,
    class: Class,
    is_fresh: bool,
    metrics: &Metrics,
) -> Option<Reached> {
    let (tier, best) = order.first()?;
    // Counted from now on, so that requests that come meanwhile are spread.
    let mut asked = best.ask();
    if !is_fresh && let Some(connection) = best.idle.take().await {
        return Some(Reached {
            tier: *tier,
            asked,
            connection,
            class,
            is_used: true,
        });
    }
    let mut left = order.into_iter();
    let mut dials = FuturesUnordered::new();
    let end = Instant::now() + IN_ALL;
    loop {
        let is_last = match left.next() {
            Some((tier, pod)) => {
                dials.push(async move { (tier, pod.begin_dial(class).await, pod) });
                false
            }
            None => true,
        };
        let next = sleep(NEXT_AFTER);
        tokio::select! {
            Some((tier, dialled, pod)) = dials.next() => match dialled {
                Ok(connection) => {
                    if !Arc::ptr_eq(&pod, &asked.pod) {
                        asked = pod.ask();
                    }
                    return Some(Reached { tier, asked, connection, class, is_used: false });
                }
                Err(_) => {
                    metrics.passed_on(tier, "connect");
                    if is_last && dials.is_empty() {
                        return None;
                    }
                }
            },
            () = next, if !is_last => {}
            () = sleep_until(end) => return None,
        }
    }
}
