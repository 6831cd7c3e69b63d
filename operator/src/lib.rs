//! The operator: turns `ZImageDeployment` objects into tiers of server pods and moves traffic between them.
//!
//! ```text
//! controller  which change leads to which reconciliation
//!     └─▶ reconcile  dereference → build → apply → status
//!             └─▶ observe   the load of the server pods, each second
//!                     └─▶ traffic   pure: which weights are in force, and why
//! leader      one replica acts          http, metrics   probes and figures
//! ```
//!
//! Invariants: `build`, `status`, `events` and `traffic` are pure; only `apply`, `reconcile` and `observe`
//! talk to anyone. A steady state makes no writes. What runs depends on the spec alone, never on the operator's version.
#![forbid(unsafe_code)]

pub mod args;
pub mod clock;
pub mod controller;
#[cfg(test)]
mod fake_api;
pub mod http;
pub mod leader;
pub mod metrics;
pub mod observe;
pub mod reconcile;
pub mod traffic;
