//! How much of a long task is done.

/// How far a long job is, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that are done.
    pub done: u64,
    /// All of them.
    pub total: u64,
}
