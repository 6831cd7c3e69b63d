//! Harness of the tests that cross crates or need a Kubernetes.
//!
//! ```text
//! tests/tidy.rs        the tree keeps its rules                                       files only
//! tests/scripts.rs     what `make up` and `make test` say when something is amiss     bash
//! tests/golden.rs      what the chart renders, and that generated files are new       helm
//! tests/contract.rs    what the operator renders is what server and gateway take      the built programs
//! tests/cel.rs         the CEL rules accept and refuse what they say                  files only
//! tests/apiserver/     the API: bad objects are refused with a reason                 a control plane
//! tests/hostile/       no client takes a gateway or a server down                        the built programs, root
//! tests/e2e/           a user's view of the whole system                              a node that runs pods
//! ```
//!
//! Invariants: a test that lacks what it needs fails and says how to get it; it never passes by doing nothing.
//! Each test has a namespace of its own, and nothing that it makes outlives it.
#![forbid(unsafe_code)]

pub mod cluster;
pub mod commands;
pub mod documents;
pub mod fake_api;
pub mod forward;
pub mod manifest;
pub mod namespace;
pub mod node;
pub mod process;
pub mod relay;
pub mod repository;
pub mod slope;
pub mod stack;
pub mod traffic;
pub mod wait;
