//! `verify`: a checkpoint is checked before anything is loaded.

use crate::args::Verify;
use crate::failure::Failure;
use zimage_checkpoint::Checkpoint;

#[expect(clippy::print_stdout, reason = "the verdict is this command's output")]
pub(crate) fn run(args: &Verify) -> Result<(), Failure> {
    let fault = |error: zimage_checkpoint::CheckpointError| Failure::Model(error.to_string());
    Checkpoint::open(&args.model)
        .and_then(|checkpoint| checkpoint.verify())
        .map_err(fault)?;
    println!(
        "{} is complete: every tensor is there with its shape",
        args.model.display()
    );
    Ok(())
}
