//! The sizes of the tiny models that `make-model` writes.

use crate::checkpoint::Siglip;
use crate::config::{
    SchedulerConfig, SiglipConfig, SiglipProcessorConfig, TextEncoderConfig, TransformerConfig,
    VaeConfig,
};
use safetensors::Dtype;
use std::fmt;
use std::str::FromStr;

/// Which model of random weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Everything divides evenly, as in the released models; float32, one file a component.
    Tiny,
    /// Widths that nothing divides, bfloat16 and float16, several files a component.
    Odd,
    /// Widths that the kernels of large models take: heads of 128 and multiples of them; float32, one file a component.
    Wide,
    /// The released models' sizes in bfloat16: 20 GB, to measure speed with.
    Full,
    /// As tiny, and takes condition images: `ZImageOmniPipeline`.
    Omni,
}

/// No shape has this name.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no model shape is called {0:?}: the shapes are \"tiny\", \"odd\", \"wide\", \"full\" and \"omni\""
)]
pub struct UnknownShape(String);

impl FromStr for Shape {
    type Err = UnknownShape;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "tiny" => Ok(Self::Tiny),
            "odd" => Ok(Self::Odd),
            "wide" => Ok(Self::Wide),
            "full" => Ok(Self::Full),
            "omni" => Ok(Self::Omni),
            _ => Err(UnknownShape(name.to_owned())),
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tiny => "tiny",
            Self::Odd => "odd",
            Self::Wide => "wide",
            Self::Full => "full",
            Self::Omni => "omni",
        })
    }
}

/// How one component's weights are stored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Storage {
    pub(crate) dtype: Dtype,
    pub(crate) shards: usize,
}

/// Everything that a shape decides.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) text_encoder: TextEncoderConfig,
    pub(crate) text_encoder_storage: Storage,
    /// Before the names of the text encoder's tensors: `Qwen3ForCausalLM` saves "model.", `Qwen3Model` nothing.
    pub(crate) text_encoder_prefix: &'static str,
    pub(crate) transformer: TransformerConfig,
    pub(crate) transformer_storage: Storage,
    pub(crate) vae: VaeConfig,
    pub(crate) vae_storage: Storage,
    pub(crate) scheduler: SchedulerConfig,
    /// Only an Omni model's; float32, one file.
    pub(crate) siglip: Option<Siglip>,
}

impl Shape {
    /// The shape's sizes.
    pub(crate) fn spec(self) -> Spec {
        match self {
            Self::Tiny => tiny(),
            Self::Odd => odd(),
            Self::Wide => wide(),
            Self::Full => full(),
            Self::Omni => omni(),
        }
    }
}

fn tiny() -> Spec {
    let one_file = Storage {
        dtype: Dtype::F32,
        shards: 1,
    };
    Spec {
        text_encoder: TextEncoderConfig {
            vocab_size: 512,
            hidden_size: 64,
            intermediate_size: 128,
            num_hidden_layers: 3,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            head_dim: 32,
            rms_norm_eps: 1e-6,
            rope_theta: Some(1_000_000.0),
            rope_parameters: None,
        },
        text_encoder_storage: one_file,
        text_encoder_prefix: "model.",
        transformer: TransformerConfig {
            all_patch_size: vec![2],
            all_f_patch_size: vec![1],
            in_channels: 16,
            dim: 96,
            n_layers: 2,
            n_refiner_layers: 2,
            n_heads: 3,
            norm_eps: 1e-5,
            qk_norm: true,
            cap_feat_dim: 64,
            siglip_feat_dim: None,
            rope_theta: 256.0,
            t_scale: 1000.0,
            axes_dims: vec![8, 12, 12],
            axes_lens: vec![1536, 512, 512],
        },
        transformer_storage: one_file,
        vae: VaeConfig {
            in_channels: 3,
            out_channels: 3,
            latent_channels: 16,
            block_out_channels: vec![16, 32, 32, 32],
            layers_per_block: 2,
            norm_num_groups: 8,
            scaling_factor: 0.3611,
            shift_factor: 0.1159,
        },
        vae_storage: one_file,
        scheduler: SchedulerConfig {
            num_train_timesteps: 1000,
            shift: 3.0,
            use_dynamic_shifting: false,
        },
        siglip: None,
    }
}

fn omni() -> Spec {
    let tiny = tiny();
    let siglip = Siglip {
        tower: SiglipConfig {
            hidden_size: 48,
            intermediate_size: 80,
            num_hidden_layers: 2,
            num_attention_heads: 3,
            patch_size: 8,
            // Images have more patches in one direction and fewer in the other: positions are stretched and shrunk.
            num_patches: 36,
            ..SiglipConfig::default()
        },
        processor: SiglipProcessorConfig {
            patch_size: 8,
            max_num_patches: 40,
            ..SiglipProcessorConfig::default()
        },
    };
    Spec {
        transformer: TransformerConfig {
            siglip_feat_dim: Some(siglip.tower.hidden_size),
            ..tiny.transformer
        },
        siglip: Some(siglip),
        ..tiny
    }
}

fn odd() -> Spec {
    let Spec {
        text_encoder,
        transformer,
        vae,
        scheduler,
        siglip,
        ..
    } = tiny();
    Spec {
        text_encoder: TextEncoderConfig {
            vocab_size: 517,
            hidden_size: 72,
            intermediate_size: 200,
            num_hidden_layers: 4,
            num_attention_heads: 6,
            num_key_value_heads: 2,
            head_dim: 24,
            ..text_encoder
        },
        text_encoder_storage: Storage {
            dtype: Dtype::BF16,
            shards: 2,
        },
        text_encoder_prefix: "",
        transformer: TransformerConfig {
            dim: 280,
            n_layers: 3,
            n_refiner_layers: 1,
            n_heads: 7,
            cap_feat_dim: 72,
            axes_dims: vec![8, 16, 16],
            axes_lens: vec![1024, 512, 512],
            ..transformer
        },
        transformer_storage: Storage {
            dtype: Dtype::BF16,
            shards: 3,
        },
        vae: VaeConfig {
            block_out_channels: vec![12, 24, 36, 48],
            layers_per_block: 1,
            norm_num_groups: 6,
            ..vae
        },
        vae_storage: Storage {
            dtype: Dtype::F16,
            shards: 1,
        },
        scheduler,
        siglip,
    }
}

fn wide() -> Spec {
    let tiny = tiny();
    Spec {
        transformer: TransformerConfig {
            dim: 384,
            n_layers: 3,
            axes_dims: vec![32, 48, 48],
            ..tiny.transformer
        },
        ..tiny
    }
}

/// Z-Image-Turbo's own configuration. The tokenizer stays the tiny models' one.
fn full() -> Spec {
    let in_files = |shards| Storage {
        dtype: Dtype::BF16,
        shards,
    };
    let Spec {
        text_encoder,
        transformer,
        vae,
        scheduler,
        ..
    } = tiny();
    Spec {
        text_encoder: TextEncoderConfig {
            vocab_size: 151_936,
            hidden_size: 2560,
            intermediate_size: 9728,
            num_hidden_layers: 36,
            num_attention_heads: 32,
            num_key_value_heads: 8,
            head_dim: 128,
            ..text_encoder
        },
        text_encoder_storage: in_files(8),
        text_encoder_prefix: "model.",
        transformer: TransformerConfig {
            dim: 3840,
            n_layers: 30,
            n_refiner_layers: 2,
            n_heads: 30,
            cap_feat_dim: 2560,
            axes_dims: vec![32, 48, 48],
            ..transformer
        },
        transformer_storage: in_files(12),
        vae: VaeConfig {
            block_out_channels: vec![128, 256, 512, 512],
            norm_num_groups: 32,
            ..vae
        },
        vae_storage: in_files(1),
        scheduler,
        siglip: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout;

    #[test]
    fn full_is_the_released_size() {
        let spec = Shape::Full.spec();
        let count = |tensors: Vec<layout::Expected>| -> usize {
            let of_one = |tensor: &layout::Expected| tensor.shape.iter().product::<usize>();
            tensors.iter().map(of_one).sum()
        };
        assert_eq!(count(layout::transformer(&spec.transformer)), 6_154_908_736);
        assert_eq!(
            count(layout::text_encoder(&spec.text_encoder)),
            4_022_468_096
        );
        assert_eq!(count(layout::vae(&spec.vae)), 83_819_683);
    }
}
