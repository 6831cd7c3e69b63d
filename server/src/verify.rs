//! `verify`: a checkpoint is checked before anything is loaded.

use crate::args::Verify;
use crate::failure::Failure;
use crate::files;
use crate::progress::Bytes;
use zimage_checkpoint::{CheckpointError, ControlNet, MANIFEST, check_manifest};

#[expect(clippy::print_stdout, reason = "the verdict is this command's output")]
pub(crate) fn run(args: &Verify) -> Result<(), Failure> {
    let model = &args.files.model;
    let bar = Bytes::new("reading");
    // Before the files are understood: a damaged one is better named by its hash than by what its content looks like.
    let compared = check_manifest(model, &mut |progress| bar.show(progress)).map_err(invalid)?;
    drop(bar);
    let one = |fault| invalid(vec![fault]);
    let checkpoint = files::open(&args.files)?;
    checkpoint.verify().map_err(one)?;
    if let Some(path) = &args.controlnet {
        let control_net = ControlNet::open(path, checkpoint.transformer()).map_err(one)?;
        control_net.verify().map_err(one)?;
    }
    println!(
        "{} is complete: every tensor is there with its shape",
        model.display()
    );
    match compared {
        Some(count) => println!("{count} files have the size and the SHA-256 of {MANIFEST}"),
        None => println!("there is no {MANIFEST}: the tensors' values were not checked"),
    }
    Ok(())
}

/// All that is wrong, in one failure.
fn invalid(faults: Vec<CheckpointError>) -> Failure {
    let texts: Vec<String> = faults.iter().map(ToString::to_string).collect();
    Failure::Model(texts.join("; "))
}
