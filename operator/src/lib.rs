//! The operator: turns `ZImageDeployment` objects into tiers of server pods and moves traffic between them.
//!
//! ```text
//! watches ─▶ changes     what exists, and which deployments changed: in every replica, from its start on
//!               └─▶ controller   in the leader: one reconciliation after another of each deployment
//!                       └─▶ reconcile  dereference → validate → decide → build → apply → status → publish
//!                               └─▶ observe   the load of the server pods, each second
//!                                       └─▶ decide   pure: weights, pods of each tier, images, and why
//! leader, client   one replica acts, and nothing is written without its lead
//! health, http, metrics   whether the work is done
//! ```
//!
//! Invariants: `decide`, `validate`, `build`, `status` and `events` are pure; only `apply`, `kubelet`, `publish`, `observe` and
//! `watches` talk to anyone. What is built was decided before. Nothing waits inside a reconciliation but for the API server, with a deadline. A steady state makes no writes. What runs depends on the spec alone, never on the operator's version.
#![forbid(unsafe_code)]

pub mod args;
pub mod changes;
pub mod client;
pub mod clock;
pub mod component;
pub mod controller;
pub mod decide;
pub mod failures;
#[cfg(test)]
mod fake_api;
pub mod fault;
pub mod health;
pub mod http;
pub mod leader;
pub mod metrics;
pub mod observe;
mod quantity;
pub mod reconcile;
pub mod watches;
