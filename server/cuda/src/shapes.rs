//! Sizes that libraries and kernels share.

/// Bytes of a bfloat16 number.
pub(crate) const BF16: usize = 2;

/// Bytes of a float32 number.
pub(crate) const F32: usize = 4;

/// Rows of (q heads | k heads | v heads).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Heads {
    /// Rows.
    pub tokens: usize,
    /// Heads of q.
    pub heads: usize,
    /// Heads of k, and of v; divides the heads of q.
    pub kv_heads: usize,
    /// Numbers of a head: a multiple of eight.
    pub width: usize,
}

impl Heads {
    /// Numbers of a row.
    pub const fn row(self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.width
    }

    /// Bytes of all rows.
    pub const fn bytes(self) -> usize {
        self.tokens * self.row() * BF16
    }
}

/// Attention over fused rows of (q heads | k heads | v heads), into rows of heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Attention {
    /// Sizes.
    pub heads: Heads,
    /// Whether a token sees only itself and those before it.
    pub causal: bool,
}
