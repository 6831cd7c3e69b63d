//! What can go wrong while a model is loaded.

use zimage_checkpoint::CheckpointError;

/// A model could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The checkpoint is damaged.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A tensor could not be made, most likely because there is no memory for it.
    #[error("failed to load the model: {0}")]
    Tensor(#[from] candle_core::Error),
}
