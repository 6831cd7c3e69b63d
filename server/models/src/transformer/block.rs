//! The block that refiners and layers are made of.

use crate::attention::attend;
use crate::error::LoadError;
use crate::norm::RmsNorm;
use crate::part::Part;
use candle_core::{Module as _, Result, Tensor};
use candle_nn::Linear;
use zimage_checkpoint::config::TransformerConfig;

/// Epsilon of the norms of queries and keys, which diffusers does not configure.
const QK_NORM_EPS: f64 = 1e-5;

/// diffusers' `ZImageTransformerBlock`.
pub(super) struct Block {
    attention: Attention,
    attention_norm1: RmsNorm,
    attention_norm2: RmsNorm,
    ffn_norm1: RmsNorm,
    ffn_norm2: RmsNorm,
    w1: Linear,
    w2: Linear,
    w3: Linear,
    /// The context refiner's blocks have none: they do not depend on the time.
    modulation: Option<Linear>,
}

/// What the time does to a block: four tensors (1, dim), or (tokens, dim) where tokens have unlike times.
struct Modulation {
    scale_msa: Tensor,
    gate_msa: Tensor,
    scale_mlp: Tensor,
    gate_mlp: Tensor,
}

struct Attention {
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
    norms: Option<(RmsNorm, RmsNorm)>,
    heads: usize,
}

impl Block {
    pub(super) fn load(
        config: &TransformerConfig,
        part: &Part<'_>,
        modulated: bool,
    ) -> std::result::Result<Self, LoadError> {
        let (dim, ffn) = (config.dim, config.ffn_dim());
        let norm = |name: &str| RmsNorm::load(&part.at(name), dim, config.norm_eps);
        let feed_forward = part.at("feed_forward");
        let modulation = part.at("adaLN_modulation.0");
        Ok(Self {
            attention: Attention::load(config, &part.at("attention"))?,
            attention_norm1: norm("attention_norm1")?,
            attention_norm2: norm("attention_norm2")?,
            ffn_norm1: norm("ffn_norm1")?,
            ffn_norm2: norm("ffn_norm2")?,
            w1: feed_forward.at("w1").linear_no_bias(dim, ffn)?,
            w2: feed_forward.at("w2").linear_no_bias(ffn, dim)?,
            w3: feed_forward.at("w3").linear_no_bias(dim, ffn)?,
            modulation: modulated
                .then(|| modulation.linear(config.adaln_dim(), 4 * dim))
                .transpose()?,
        })
    }

    /// As [`Self::forward`] where tokens have unlike times: the times' embeddings (times, width), and each token's of them.
    pub(super) fn forward_mixed(
        &self,
        x: &Tensor,
        rope: &(Tensor, Tensor),
        (times, rows): (&Tensor, &Tensor),
    ) -> Result<Tensor> {
        let modulation = self.modulate(Some(times))?;
        let modulation = modulation.map(|all| all.select(rows)).transpose()?;
        self.modulated(x, rope, modulation)
    }

    /// One block over (tokens, dim). `time` is the time's embedding (1, width), which only modulated blocks need.
    pub(super) fn forward(
        &self,
        x: &Tensor,
        rope: &(Tensor, Tensor),
        time: Option<&Tensor>,
    ) -> Result<Tensor> {
        self.modulated(x, rope, self.modulate(time)?)
    }

    fn modulated(
        &self,
        x: &Tensor,
        rope: &(Tensor, Tensor),
        modulation: Option<Modulation>,
    ) -> Result<Tensor> {
        let Some(modulation) = modulation else {
            let x = (x + self.attend(&self.attention_norm1.forward(x)?, rope)?)?;
            return &x + self.feed_forward(&self.ffn_norm1.forward(&x)?)?;
        };
        let scaled = self
            .attention_norm1
            .forward(x)?
            .broadcast_mul(&modulation.scale_msa)?;
        let x = (x + self
            .attend(&scaled, rope)?
            .broadcast_mul(&modulation.gate_msa)?)?;
        let scaled = self
            .ffn_norm1
            .forward(&x)?
            .broadcast_mul(&modulation.scale_mlp)?;
        &x + self
            .feed_forward(&scaled)?
            .broadcast_mul(&modulation.gate_mlp)?
    }

    fn modulate(&self, time: Option<&Tensor>) -> Result<Option<Modulation>> {
        let (Some(linear), Some(time)) = (&self.modulation, time) else {
            return Ok(None);
        };
        let parts = linear.forward(time)?.chunk(4, 1)?;
        Ok(Some(Modulation {
            scale_msa: (&parts[0] + 1.0)?,
            gate_msa: parts[1].tanh()?,
            scale_mlp: (&parts[2] + 1.0)?,
            gate_mlp: parts[3].tanh()?,
        }))
    }

    fn attend(&self, x: &Tensor, rope: &(Tensor, Tensor)) -> Result<Tensor> {
        self.attention_norm2
            .forward(&self.attention.forward(x, rope)?)
    }

    fn feed_forward(&self, x: &Tensor) -> Result<Tensor> {
        let gated = (self.w1.forward(x)?.silu()? * self.w3.forward(x)?)?;
        self.ffn_norm2.forward(&self.w2.forward(&gated)?)
    }
}

impl Modulation {
    /// Gives each token its row.
    fn select(&self, rows: &Tensor) -> Result<Self> {
        Ok(Self {
            scale_msa: self.scale_msa.index_select(rows, 0)?,
            gate_msa: self.gate_msa.index_select(rows, 0)?,
            scale_mlp: self.scale_mlp.index_select(rows, 0)?,
            gate_mlp: self.gate_mlp.index_select(rows, 0)?,
        })
    }
}

impl Attention {
    fn load(config: &TransformerConfig, part: &Part<'_>) -> std::result::Result<Self, LoadError> {
        let dim = config.dim;
        let projection = |name: &str| part.at(name).linear_no_bias(dim, dim);
        let norm = |name: &str| RmsNorm::load(&part.at(name), config.head_dim(), QK_NORM_EPS);
        Ok(Self {
            to_q: projection("to_q")?,
            to_k: projection("to_k")?,
            to_v: projection("to_v")?,
            to_out: projection("to_out.0")?,
            norms: if config.qk_norm {
                Some((norm("norm_q")?, norm("norm_k")?))
            } else {
                None
            },
            heads: config.n_heads,
        })
    }

    fn forward(&self, x: &Tensor, (cos, sin): &(Tensor, Tensor)) -> Result<Tensor> {
        let tokens = x.dim(0)?;
        // (tokens, dim) -> (1, tokens, heads, width)
        let split = |x: Tensor| x.reshape((1, tokens, self.heads, ()));
        let rotate = |x: Tensor| {
            candle_nn::rotary_emb::rope_i(&x.transpose(1, 2)?.contiguous()?, cos, sin)?.squeeze(0)
        };

        let (mut q, mut k) = (split(self.to_q.forward(x)?)?, split(self.to_k.forward(x)?)?);
        if let Some((norm_q, norm_k)) = &self.norms {
            (q, k) = (norm_q.forward(&q)?, norm_k.forward(&k)?);
        }
        let v = split(self.to_v.forward(x)?)?
            .squeeze(0)?
            .transpose(0, 1)?
            .contiguous()?;
        let out = attend(&rotate(q)?, &rotate(k)?, &v, false)?;
        self.to_out
            .forward(&out.transpose(0, 1)?.reshape((tokens, ()))?)
    }
}
