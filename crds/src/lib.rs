//! The Kubernetes API of the project: `ZImageDeployment` in group `zimage.dev`, version `v1alpha1`.
//!
//! ```text
//! ZImageDeployment
//! ├── spec     primary, fallback (tiers) · gateway · traffic · limits · paused   what a user asks for
//! └── status   conditions · tiers · traffic (weights, state, reason)      what the operator decided
//! ```
//!
//! Beside it: labels ([`labels`]) and what the programs agree on ([`contract`]).
//!
//! Invariants: types, CEL rules and constants only, no behaviour and no I/O; `yaml/` is generated from these types
//! (`cargo run -p zimage-crds > crds/yaml/zimagedeployments.yaml`) and never edited by hand.
#![forbid(unsafe_code)]
#![deny(missing_docs)]
#![expect(
    unreachable_pub,
    reason = "KubeSchema derives a hidden public copy of each type inside a function"
)]

mod condition;
pub mod contract;
mod deployment;
pub mod labels;
mod limits;
mod per_tier;
mod status;
mod tier;
mod traffic;

#[cfg(test)]
mod documentation;

pub use condition::{ConditionType, Reason, Severity};
pub use deployment::{GatewaySpec, UpgradePolicy, ZImageDeployment, ZImageDeploymentSpec};
pub use limits::LimitsSpec;
pub use per_tier::PerTier;
pub use status::{GatewayStatus, TierStatus, TrafficState, TrafficStatus, ZImageDeploymentStatus};
pub use tier::{
    Device, EngineSpec, GpuSpec, ModelSource, ModelSpec, PersistentVolumeClaimSource, Precision,
    SchedulingSpec, Tier, TierSpec, Variant,
};
pub use traffic::{ShiftSpec, ShiftTrigger, TrafficMode, TrafficSpec, Weights};
