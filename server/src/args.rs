//! The command line. Flags that diffusers has too carry diffusers' names.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use zimage_checkpoint::Shape;
use zimage_core::request::CfgNormalization;
use zimage_core::variant::Variant;
use zimage_http::ServeArgs;

/// Z-Image: text to image, as a server and on the command line.
#[derive(Debug, Parser)]
#[command(name = "zimage-server", version, about)]
pub(crate) struct Program {
    /// Form of the log, which goes to standard error.
    #[arg(long, global = true, env = "ZIMAGE_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Form of the log.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve OpenAI's image API.
    Serve(Serve),
    /// Make images and write them to files.
    Generate(Generate),
    /// Check a checkpoint's files, tensors and shapes without loading it.
    Verify(Verify),
    /// Write a tiny checkpoint of random weights, for trials and tests.
    MakeModel(MakeModel),
}

/// What to compute on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Device {
    /// A GPU when one is visible, the CPU otherwise.
    Auto,
    /// An NVIDIA GPU.
    Cuda,
    /// The CPU, in float32: correct, and slow for real models.
    Cpu,
}

/// Number format of weights and activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Precision {
    /// float32 on the CPU.
    Auto,
    /// float32.
    Float32,
    /// bfloat16, on a GPU.
    Bfloat16,
}

/// Which model, and on what.
#[derive(Clone, Debug, Args)]
pub(crate) struct Model {
    /// Folder of the checkpoint in the Hugging Face layout: the one with model_index.json.
    #[arg(long, env = "ZIMAGE_MODEL")]
    pub(crate) model: PathBuf,
    /// What to compute on.
    #[arg(long, env = "ZIMAGE_DEVICE", value_enum, default_value_t = Device::Auto)]
    pub(crate) device: Device,
    /// Number format of weights and activations.
    #[arg(long, visible_alias = "dtype", env = "ZIMAGE_PRECISION", value_enum, default_value_t = Precision::Auto)]
    pub(crate) precision: Precision,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Serve {
    #[command(flatten)]
    pub(crate) model: Model,
    #[command(flatten)]
    pub(crate) serve: ServeArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Generate {
    #[command(flatten)]
    pub(crate) model: Model,
    /// The model's name, z-image-turbo or z-image: decides the defaults for steps and guidance.
    #[arg(long, default_value = "z-image-turbo", value_parser = Variant::from_model_name)]
    pub(crate) model_name: Variant,
    /// What the image shows.
    #[arg(long)]
    pub(crate) prompt: String,
    /// What it must not show; used with guidance only.
    #[arg(long, default_value = "")]
    pub(crate) negative_prompt: String,
    /// File to write: .png, .jpg, .jpeg or .webp. Several images get .0, .1, … before the extension.
    #[arg(long, short)]
    pub(crate) output: PathBuf,
    /// Width in pixels, a multiple of 16.
    #[arg(long, default_value_t = 1024)]
    pub(crate) width: u32,
    /// Height in pixels, a multiple of 16.
    #[arg(long, default_value_t = 1024)]
    pub(crate) height: u32,
    /// Seed of the noise. None: a random one, which is printed.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Denoising steps. None: the model's own number.
    #[arg(long)]
    pub(crate) num_inference_steps: Option<u32>,
    /// Guidance scale; 0 or 1 means none. None: the model's own.
    #[arg(long)]
    pub(crate) guidance_scale: Option<f32>,
    /// true, false, or a number: limits the norm of the guided prediction.
    #[arg(long, default_value = "false", value_parser = cfg_normalization)]
    pub(crate) cfg_normalization: CfgNormalization,
    /// Normalised time above which guidance is off.
    #[arg(long, default_value_t = 1.0)]
    pub(crate) cfg_truncation: f32,
    /// Images to make.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) num_images: u32,
    /// Image to start from, already of the width and height.
    #[arg(long)]
    pub(crate) image: Option<PathBuf>,
    /// Mask of the image: white is replaced, black is kept.
    #[arg(long, requires = "image")]
    pub(crate) mask: Option<PathBuf>,
    /// How much of the image is replaced, above 0 to 1.
    #[arg(long, requires = "image", default_value_t = 0.6)]
    pub(crate) strength: f32,
    /// What the PNG tells about how it was made.
    #[arg(long, value_enum, default_value_t = Metadata::Full)]
    pub(crate) metadata: Metadata,
}

/// What a file tells about how it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Metadata {
    /// Prompt, seed, steps and model.
    Full,
    /// Nothing.
    None,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Verify {
    /// Folder of the checkpoint.
    #[arg(long, env = "ZIMAGE_MODEL")]
    pub(crate) model: PathBuf,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct MakeModel {
    /// Shape of the model: tiny, or odd (sizes that divide badly).
    #[arg(long, default_value = "tiny")]
    pub(crate) shape: Shape,
    /// Seed of the weights.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Folder to write.
    #[arg(long)]
    pub(crate) out: PathBuf,
}

fn cfg_normalization(text: &str) -> Result<CfgNormalization, String> {
    match text {
        "false" => Ok(CfgNormalization::Off),
        "true" => Ok(CfgNormalization::Clamp(1.0)),
        _ => match text.parse::<f32>() {
            Ok(0.0) => Ok(CfgNormalization::Off),
            Ok(value) if value > 0.0 && value.is_finite() => Ok(CfgNormalization::Clamp(value)),
            _ => Err("true, false or a number from 0 on".to_owned()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Program::command().debug_assert();
    }

    #[test]
    fn cfg_normalization_takes_what_diffusers_takes() {
        assert_eq!(cfg_normalization("true"), Ok(CfgNormalization::Clamp(1.0)));
        assert_eq!(cfg_normalization("0"), Ok(CfgNormalization::Off));
        assert_eq!(cfg_normalization("0.5"), Ok(CfgNormalization::Clamp(0.5)));
        assert!(cfg_normalization("-1").is_err());
        assert!(cfg_normalization("yes").is_err());
    }
}
