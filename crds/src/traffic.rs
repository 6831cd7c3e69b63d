//! How requests are split between the tiers, and when the split changes.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Shares of the requests that ask a tier first. Only the ratio counts: 90 and 10 is the same as 9 and 1.
///
/// A tier that cannot take a request passes it on, so a weight is a preference, never a loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("self.primary + self.fallback > 0", "at least one weight must be above 0"))]
pub struct Weights {
    /// Required. Share of the primary tier, 0 to 100.
    #[schemars(range(min = 0, max = 100))]
    pub primary: i32,
    /// Required. Share of the fallback tier, 0 to 100.
    #[schemars(range(min = 0, max = 100))]
    pub fallback: i32,
}

/// Who routes the requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TrafficMode {
    /// The project's own gateway: exact split, retries on the other tier. Needs nothing else in the cluster.
    #[default]
    Proxy,
}

/// What counts as a saturated primary tier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ShiftTrigger {
    /// GPU utilisation above the limit and at least one request waiting, for the whole window. One client that sends
    /// request after request keeps a GPU at 100 % without harm: the queue tells load from overload.
    #[default]
    UtilizationAndQueue,
    /// GPU utilisation above the limit for the whole window, whatever the queue.
    Utilization,
}

/// When traffic leaves a saturated primary tier, where it goes, and when it comes back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
// `KubeSchema` cannot derive for a type with container-level defaults, so the rule is written as the schema has it.
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "self.returnBelowPercent < self.utilizationPercent",
    "message": "returnBelowPercent must be lower than utilizationPercent, or traffic would flap"
}]))]
pub struct ShiftSpec {
    /// What counts as saturated: GPU utilisation above the limit and a request that waits (`UtilizationAndQueue`), or
    /// utilisation whatever the queue (`Utilization`). Default: `UtilizationAndQueue`.
    pub trigger: ShiftTrigger,
    /// Mean GPU utilisation of the tier's ready pods, in percent, above which it is saturated. 1 to 99, default 98.
    #[schemars(range(min = 1, max = 99))]
    pub utilization_percent: i32,
    /// Seconds for which the tier must stay saturated before traffic shifts. 1 to 3600, default 30.
    #[schemars(range(min = 1, max = 3600))]
    pub window_seconds: i32,
    /// Weights while shifted. Default: primary 0, fallback 100.
    pub weights: Weights,
    /// Utilisation in percent below which the primary tier counts as relieved. 0 to 98, default 80.
    #[schemars(range(min = 0, max = 98))]
    pub return_below_percent: i32,
    /// Seconds for which the tier must stay relieved, with an empty queue, before traffic returns. 1 to 3600, default 60.
    #[schemars(range(min = 1, max = 3600))]
    pub return_after_seconds: i32,
    /// Seconds that a shift lasts at the least. 0 to 86400, default 60.
    #[schemars(range(min = 0, max = 86400))]
    pub minimum_hold_seconds: i32,
    /// Seconds after a return during which saturation does not shift again. 0 to 86400, default 60.
    #[schemars(range(min = 0, max = 86400))]
    pub cool_down_seconds: i32,
}

impl Default for ShiftSpec {
    fn default() -> Self {
        Self {
            trigger: ShiftTrigger::default(),
            utilization_percent: 98,
            window_seconds: 30,
            weights: Weights {
                primary: 0,
                fallback: 100,
            },
            return_below_percent: 80,
            return_after_seconds: 60,
            minimum_hold_seconds: 60,
            cool_down_seconds: 60,
        }
    }
}

/// How requests are split between the tiers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TrafficSpec {
    /// Who routes the requests: the project's own gateway (`Proxy`). Default: `Proxy`.
    pub mode: TrafficMode,
    /// Weights in normal operation. Default: primary 90, fallback 10. Without a fallback tier all goes to the primary.
    pub weights: Weights,
    /// When and where traffic shifts while the primary tier is saturated. Unset: each field has its default.
    pub shift: ShiftSpec,
}

impl Default for TrafficSpec {
    fn default() -> Self {
        Self {
            mode: TrafficMode::default(),
            weights: Weights {
                primary: 90,
                fallback: 10,
            },
            shift: ShiftSpec::default(),
        }
    }
}
