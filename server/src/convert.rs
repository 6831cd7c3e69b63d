//! `convert`: a checkpoint in bfloat16, half the size of the float32 that it was released in.

use crate::args::Convert;
use crate::failure::Failure;
use crate::files;
use crate::progress::Bytes;
use zimage_checkpoint::{MANIFEST, convert};

#[expect(
    clippy::print_stdout,
    reason = "what was written is this command's output"
)]
pub(crate) fn run(args: &Convert) -> Result<(), Failure> {
    let checkpoint = files::open(&args.files)?;
    let bar = Bytes::new("writing");
    convert(&checkpoint, &args.out, &mut |progress| bar.show(progress)).map_err(Failure::other)?;
    drop(bar);
    println!(
        "{} holds the model in bfloat16; {MANIFEST} has each file's SHA-256",
        args.out.display()
    );
    Ok(())
}
