//! How often a child was put back: two that set the same field would go on for ever, and make and kill pods as they do.

use kube::ResourceExt;
use kube::api::DynamicObject;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// As many within [`WINDOW`] are a fight.
const MOST: usize = 5;
const WINDOW: Duration = Duration::from_secs(300);
/// Time between two more of a fight's.
const PAUSE: Duration = Duration::from_secs(60);

/// When each child was put back. Bounded: at most [`MOST`] times of each child that was changed within the window.
#[derive(Debug, Default)]
pub struct Reverts(Mutex<HashMap<String, Vec<Instant>>>);

/// What to do about a child that something else changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    /// It is to be put back now.
    pub(super) may_write: bool,
    /// It happens again and again.
    pub(super) is_contested: bool,
}

impl Reverts {
    /// A child is not as it was applied. Counts it where it is to be put back.
    pub(super) fn of(&self, child: &DynamicObject) -> Verdict {
        let kind = child.types.as_ref().map(|types| types.kind.as_str());
        let key = format!("{:?} {:?} {}", kind, child.namespace(), child.name_any());
        let mut reverts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        reverts.retain(|_, times| {
            times.retain(|time| time.elapsed() < WINDOW);
            !times.is_empty()
        });
        let times = reverts.entry(key).or_default();
        let is_contested = times.len() >= MOST;
        let rests = times.last().is_none_or(|last| last.elapsed() >= PAUSE);
        let may_write = !is_contested || rests;
        if may_write {
            if is_contested {
                times.remove(0);
            }
            times.push(Instant::now());
        }
        Verdict {
            may_write,
            is_contested,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn child(name: &str) -> DynamicObject {
        serde_json::from_value(
            json!({"kind": "Deployment", "apiVersion": "apps/v1", "metadata": {"name": name}}),
        )
        .unwrap()
    }

    const PUT_BACK: Verdict = Verdict {
        may_write: true,
        is_contested: false,
    };

    #[tokio::test(start_paused = true)]
    async fn a_change_now_and_then_is_put_back_at_once() {
        let reverts = Reverts::default();
        for _ in 0..20 {
            assert_eq!(reverts.of(&child("a")), PUT_BACK);
            tokio::time::advance(WINDOW / 4).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_fight_is_told_and_fought_once_a_minute() {
        let reverts = Reverts::default();
        let mut writes = 0;
        let mut last = PUT_BACK;
        for _ in 0..60 {
            last = reverts.of(&child("a"));
            writes += usize::from(last.may_write);
            tokio::time::advance(Duration::from_secs(5)).await;
        }
        assert!(last.is_contested);
        assert!(
            (MOST..=MOST + 5).contains(&writes),
            "{writes} writes in five minutes"
        );
        assert_eq!(reverts.of(&child("b")), PUT_BACK);
        tokio::time::advance(WINDOW).await;
        assert_eq!(reverts.of(&child("a")), PUT_BACK);
    }
}
