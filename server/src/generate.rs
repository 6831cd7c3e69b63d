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
use zimage_core::limits::Limits;
use zimage_core::pixels::Pixels;
use zimage_core::request::{Control, ImageRequest, InitImage, Noise, default_strength};
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

/// One request for each image.
fn requests(args: &Generate) -> Result<Vec<ImageRequest>, Failure> {
    let defaults = args.model_name.defaults();
    let seed = args
        .seed
        .unwrap_or_else(|| RandomState::new().build_hasher().finish() & u64::from(u32::MAX));
    let request = ImageRequest {
        prompt: args.prompt.clone(),
        negative_prompt: args.negative_prompt.clone(),
        width: args.width,
        height: args.height,
        num_inference_steps: args
            .num_inference_steps
            .unwrap_or(defaults.num_inference_steps),
        guidance_scale: args.guidance_scale.unwrap_or(defaults.guidance_scale),
        cfg_normalization: args.cfg_normalization,
        cfg_truncation: args.cfg_truncation,
        noise: Noise {
            seed,
            index: 0,
            count: args.num_images,
        },
        init: init_image(args)?,
        references: (args.references.iter())
            .map(|path| open(path))
            .collect::<Result<_, _>>()?,
        control: control(args)?,
    };
    Limits::default()
        .check(&request)
        .map_err(|fault| Failure::Unsupported(fault.to_string()))?;
    let image = |index| ImageRequest {
        noise: Noise {
            index,
            ..request.noise
        },
        ..request.clone()
    };
    Ok((0..args.num_images).map(image).collect())
}

fn init_image(args: &Generate) -> Result<Option<InitImage>, Failure> {
    let Some(image) = &args.image else {
        return Ok(None);
    };
    Ok(Some(InitImage {
        pixels: read(image, args)?,
        strength: (args.strength).unwrap_or_else(|| default_strength(args.control_image.is_some())),
        mask: args
            .mask
            .as_deref()
            .map(|mask| read(mask, args))
            .transpose()?,
    }))
}

fn control(args: &Generate) -> Result<Option<Control>, Failure> {
    let Some(image) = &args.control_image else {
        return Ok(None);
    };
    Ok(Some(Control {
        pixels: read(image, args)?,
        conditioning_scale: args.controlnet_conditioning_scale,
    }))
}

/// An image file of the width and height asked for.
fn read(path: &Path, args: &Generate) -> Result<Arc<Pixels>, Failure> {
    let pixels = open(path)?;
    let (width, height) = (pixels.width(), pixels.height());
    if (width, height) != (args.width, args.height) {
        let (wanted, high) = (args.width, args.height);
        return Err(Failure::Unsupported(format!(
            "{}: it is {width}x{height}, and --width and --height say {wanted}x{high}",
            path.display()
        )));
    }
    Ok(pixels)
}

/// An image file of any size.
fn open(path: &Path) -> Result<Arc<Pixels>, Failure> {
    let fault = |error: String| Failure::Unsupported(format!("{}: {error}", path.display()));
    let image = image::open(path)
        .map_err(|error| fault(error.to_string()))?
        .to_rgb8();
    let (width, height) = image.dimensions();
    let pixels =
        Pixels::new(width, height, image.into_raw()).map_err(|error| fault(error.to_string()))?;
    Ok(Arc::new(pixels))
}

fn make(executor: &mut dyn Executor, request: &ImageRequest) -> Result<Pixels, Failure> {
    let fault = |error: ExecutorError| match error {
        ExecutorError::InvalidRequest { message, .. } => Failure::Unsupported(message),
        other => Failure::Device(other.to_string()),
    };
    let begun = executor.begin(request).map_err(fault)?;
    if begun.truncated {
        tracing::warn!("the prompt was cut to the 512 tokens that the text encoder reads");
    }
    let progress = ProgressBar::new(u64::from(begun.steps)).with_style(style());
    for _ in 0..begun.steps {
        executor.step(&[begun.slot]).map_err(fault)?;
        progress.inc(1);
    }
    progress.finish_and_clear();
    let pixels = executor.decode(begun.slot).map_err(fault)?;
    executor.release(begun.slot);
    Ok(pixels)
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
