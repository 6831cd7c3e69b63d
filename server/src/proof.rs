//! One small image through the whole path, before anybody can ask for one: nothing is ready that cannot make an image.

use crate::args::Model;
use crate::device::Chosen;
use crate::failure::Failure;
use crate::files;
use std::time::Instant;
use zimage_core::executor::ExecutorError;
use zimage_core::request::ImageRequest;
use zimage_engine::Engine;

/// The smallest image that there is: a step of it costs a CPU little.
const SMALLEST: (u32, u32) = (64, 64);

/// Makes an image in one step: template, tokenizer, text encoder, transformer, decoder; the executor refuses values that
/// are not finite. Returns its size.
///
/// # Errors
/// [`Failure::Model`] names the file at fault where one is found; [`Failure::Device`] is not the model's fault.
pub(crate) async fn prove(
    engine: &Engine,
    model: &Model,
    chosen: Chosen,
) -> Result<(u32, u32), Failure> {
    let size = size(model, chosen);
    let request = ImageRequest {
        num_inference_steps: 1,
        ..ImageRequest::plain("a red fox", size)
    };
    let began = Instant::now();
    let submitted = engine.submit(vec![request]);
    let tickets = submitted.map_err(|error| Failure::Device(error.to_string()))?;
    for ticket in tickets {
        match ticket.image().await {
            Ok(_) => {}
            Err(ExecutorError::DeviceLost(cause)) => return Err(Failure::Device(cause)),
            Err(error @ ExecutorError::OutOfMemory(_)) => {
                return Err(Failure::Device(error.to_string()));
            }
            Err(error) => return Err(fault(model, error.to_string()).await),
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    tracing::info!(
        width = size.0,
        height = size.1,
        seconds,
        "an image was made"
    );
    Ok(size)
}

/// On a GPU one of those that were warmed up, so that nothing is compiled for it alone.
fn size(model: &Model, chosen: Chosen) -> (u32, u32) {
    let warm = model.gpu.gpu_warm_up.iter().copied();
    let least = warm.min_by_key(|&(width, height)| u64::from(width) * u64::from(height));
    match chosen {
        Chosen::Cpu => SMALLEST,
        Chosen::Cuda => least.unwrap_or(SMALLEST),
    }
}

/// Which file it is that no image can be made with. Reads all of them, which only a broken model costs.
async fn fault(model: &Model, error: String) -> Failure {
    let files = model.clone();
    let check = move || {
        let checkpoint = files::open_with_loras(&files.files, &files.lora)?;
        let checked = checkpoint.check_values();
        checked.map_err(|fault| Failure::Model(fault.to_string()))
    };
    let dir = model.files.model.display();
    match tokio::task::spawn_blocking(check).await {
        Ok(Err(failure)) => failure,
        Ok(Ok(())) | Err(_) => Failure::Model(format!("{dir}: no image can be made: {error}")),
    }
}
