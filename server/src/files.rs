//! Opens the files that the flags name.

use crate::args::Files;
use crate::failure::Failure;
use crate::lora_file::LoraFile;
use zimage_checkpoint::{Checkpoint, CheckpointError, Lora};
use zimage_models::dequantize;

/// The configurations and the headers of the weights; no weights are read.
pub(crate) fn open(files: &Files) -> Result<Checkpoint, Failure> {
    checkpoint(files).map_err(fault)
}

/// The same, verified, with the LoRAs to merge.
pub(crate) fn open_with_loras(files: &Files, loras: &[LoraFile]) -> Result<Checkpoint, Failure> {
    let checkpoint = with_loras(files, loras).map_err(fault)?;
    for lora in checkpoint.loras() {
        tracing::info!(
            file = %lora.path().display(),
            scale = lora.scale(),
            matched_keys = lora.matched_keys(),
            redundant_keys = lora.redundant_keys(),
            unmatched_keys = 0,
            changed_weights = lora.changed_tensors(),
            "a LoRA is merged into the weights"
        );
    }
    Ok(checkpoint)
}

fn with_loras(files: &Files, loras: &[LoraFile]) -> Result<Checkpoint, CheckpointError> {
    let open = |lora: &LoraFile| Lora::open(&lora.path, lora.scale);
    let loras = loras.iter().map(open).collect::<Result<_, _>>()?;
    let checkpoint = checkpoint(files)?.with_loras(loras)?;
    checkpoint.verify()?;
    Ok(checkpoint)
}

fn checkpoint(files: &Files) -> Result<Checkpoint, CheckpointError> {
    match &files.transformer {
        Some(file) => Checkpoint::open_with_transformer(&files.model, file, dequantize),
        None => Checkpoint::open(&files.model),
    }
}

fn fault(error: CheckpointError) -> Failure {
    Failure::Model(error.to_string())
}
