//! `generate`: images from the command line.

use crate::args::{Generate, Metadata};
use crate::device;
use crate::failure::Failure;
use crate::files;
use indicatif::{ProgressBar, ProgressStyle};
use std::collections::hash_map::RandomState;
use std::ffi::OsStr;
use std::hash::{BuildHasher, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zimage_core::executor::{Executor, ExecutorError};
use zimage_core::inputs::Input;
use zimage_core::limits::{InvalidRequest, Limits};
use zimage_core::parameters::Parameters;
use zimage_core::pixels::Pixels;
use zimage_core::request::{ImageRequest, Noise};
use zimage_http::{ImageFormat, encode};
use zimage_nvml::Gpus;

/// JPEG quality.
const QUALITY: u8 = 95;

#[expect(
    clippy::print_stdout,
    reason = "the files' names are this command's output"
)]
pub(crate) fn run(args: &Generate) -> Result<(), Failure> {
    let gpus = Gpus::find();
    let chosen = device::choose(&args.model, &gpus)?;
    let format = format(&args.output)?;
    let requests = requests(args)?;
    let hash = files::open(&args.model.files)?
        .fingerprint()
        .map_err(|error| Failure::Model(error.to_string()))?;
    let mut executor = device::load(&args.model, chosen, &gpus)?;
    for request in &requests {
        let pixels = make(&mut *executor, request)?;
        let text = match args.metadata {
            Metadata::Full => description(args, request, &hash),
            Metadata::None => Vec::new(),
        };
        let file = encode(&pixels, format, &text).map_err(Failure::other)?;
        let path = path(&args.output, request.noise);
        std::fs::write(&path, file).map_err(|error| {
            Failure::Other(format!("failed to write {}: {error}", path.display()))
        })?;
        println!("{} (seed {})", path.display(), request.noise.seed);
    }
    Ok(())
}

/// One request for each image. Whoever owns the machine may ask for what a server would not make for others.
fn requests(args: &Generate) -> Result<Vec<ImageRequest>, Failure> {
    let limits = Limits {
        max_images: u32::MAX,
        max_cost: u32::MAX,
        max_reference_pixels: u64::MAX,
        ..Limits::default()
    };
    let random_seed = RandomState::new().build_hasher().finish() & u64::from(u32::MAX);
    let fault = |fault: InvalidRequest| Failure::Unsupported(fault.to_string());
    let request = parameters(args)
        .resolve(args.model_name.defaults(), &limits, random_seed)
        .map_err(fault)?;
    Ok(request.read(&limits, open)?.images())
}

fn parameters(args: &Generate) -> Parameters<&Path> {
    Parameters {
        prompt: args.prompt.clone(),
        negative_prompt: Some(args.negative_prompt.clone()),
        n: Some(args.num_images),
        width: Some(args.width),
        height: Some(args.height),
        seed: args.seed,
        num_inference_steps: args.num_inference_steps,
        guidance_scale: args.guidance_scale,
        cfg_normalization: Some(args.cfg_normalization),
        cfg_truncation: Some(args.cfg_truncation),
        image: args.image.as_deref(),
        mask: args.mask.as_deref(),
        strength: args.strength,
        control_image: args.control_image.as_deref(),
        controlnet_conditioning_scale: args.controlnet_conditioning_scale,
        references: args.references.iter().map(PathBuf::as_path).collect(),
    }
}

/// The pixels of an image file.
fn open(path: &Path, input: Input) -> Result<Arc<Pixels>, Failure> {
    let fault = |error: String| Failure::Unsupported(format!("{}: {error}", path.display()));
    let image = image::open(path)
        .map_err(|error| fault(error.to_string()))?
        .to_rgb8();
    let (width, height) = image.dimensions();
    input
        .check(width, height)
        .map_err(|error| fault(error.to_string()))?;
    let pixels =
        Pixels::new(width, height, image.into_raw()).map_err(|error| fault(error.to_string()))?;
    Ok(Arc::new(pixels))
}

fn make(executor: &mut dyn Executor, request: &ImageRequest) -> Result<Pixels, Failure> {
    let fault = |error: ExecutorError| match error {
        ExecutorError::InvalidRequest { message, .. } => Failure::Unsupported(message),
        other => Failure::Device(other.to_string()),
    };
    let progress = ProgressBar::new(0).with_style(style());
    let pixels = executor.generate(request, &mut |begun, taken| {
        if taken == 0 && begun.truncated {
            tracing::warn!("the prompt was cut to the 512 tokens that the text encoder reads");
        }
        progress.set_length(u64::from(begun.steps));
        progress.set_position(u64::from(taken));
    });
    progress.finish_and_clear();
    pixels.map_err(fault)
}

fn style() -> ProgressStyle {
    let template = "step {pos}/{len} [{bar:30}] {elapsed}, {eta} left";
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// How the image was made, as PNG text chunks.
fn description(args: &Generate, request: &ImageRequest, hash: &str) -> Vec<(&'static str, String)> {
    let mut text = vec![
        (
            "Software",
            concat!("zimage-server ", env!("CARGO_PKG_VERSION")).to_owned(),
        ),
        ("model", args.model_name.model_name().to_owned()),
        ("model_hash", hash.to_owned()),
        ("prompt", request.prompt.clone()),
        ("seed", request.noise.seed.to_string()),
        (
            "num_inference_steps",
            request.num_inference_steps.to_string(),
        ),
        ("guidance_scale", request.guidance_scale.to_string()),
    ];
    for lora in &args.model.lora {
        text.push(("lora", lora.to_string()));
    }
    if let (Some(path), Some(control)) = (&args.model.controlnet, &request.control) {
        // Folders are nobody else's business.
        let name = path.file_name().unwrap_or_default();
        text.push(("controlnet", name.to_string_lossy().into_owned()));
        text.push((
            "controlnet_conditioning_scale",
            control.conditioning_scale.to_string(),
        ));
    }
    if !request.negative_prompt.is_empty() {
        text.push(("negative_prompt", request.negative_prompt.clone()));
    }
    text
}

fn format(path: &Path) -> Result<ImageFormat, Failure> {
    match path.extension().and_then(OsStr::to_str) {
        Some("png") => Ok(ImageFormat::Png),
        Some("jpg" | "jpeg") => Ok(ImageFormat::Jpeg(QUALITY)),
        Some("webp") => Ok(ImageFormat::Webp),
        _ => Err(Failure::Unsupported(format!(
            "{}: the file's name must end in .png, .jpg, .jpeg or .webp",
            path.display()
        ))),
    }
}

/// The path given for one image; `x.0.png`, `x.1.png` for several.
fn path(output: &Path, noise: Noise) -> PathBuf {
    if noise.count == 1 {
        return output.to_owned();
    }
    let extension = output.extension().unwrap_or_default().to_string_lossy();
    output.with_extension(format!("{}.{extension}", noise.index))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_images_are_numbered_before_the_extension() {
        let noise = |index, count| Noise {
            seed: 0,
            index,
            count,
        };
        assert_eq!(
            path(Path::new("a/x.png"), noise(0, 1)),
            Path::new("a/x.png")
        );
        assert_eq!(
            path(Path::new("a/x.png"), noise(1, 2)),
            Path::new("a/x.1.png")
        );
    }

    #[test]
    fn the_extension_chooses_the_format() {
        assert_eq!(format(Path::new("x.webp")).unwrap(), ImageFormat::Webp);
        assert!(format(Path::new("x.gif")).is_err());
    }
}
