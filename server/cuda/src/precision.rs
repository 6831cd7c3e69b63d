//! Which weights are stored, and so computed with, in which format.

use crate::matrix::Format;

/// What a model's large products are computed in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// bfloat16, on every GPU.
    #[default]
    Bf16,
    /// int8 with a scale for each row of either operand, rotated, on compute capability 9.0. Embedders, modulations, the
    /// caption's refiner, the last layer, the text encoder and the autoencoder stay bfloat16.
    Int8,
}

impl Precision {
    /// How a tensor of the transformer is stored.
    pub(crate) fn format(self, tensor: &str) -> Format {
        let of_a_step = tensor.starts_with("layers.") || tensor.starts_with("noise_refiner.");
        let product = tensor.contains(".attention.to_") || tensor.contains(".feed_forward.");
        match self {
            Self::Int8 if of_a_step && product => Format::S8,
            _ => Format::Bf16,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_products_of_each_step_are_in_int8_and_all_else_is_not() {
        for tensor in [
            "layers.0.attention.to_q.weight",
            "layers.29.attention.to_out.0.weight",
            "noise_refiner.1.feed_forward.w3.weight",
        ] {
            assert_eq!(Precision::Int8.format(tensor), Format::S8, "{tensor}");
            assert_eq!(Precision::Bf16.format(tensor), Format::Bf16, "{tensor}");
        }
        for tensor in [
            "layers.0.attention.norm_q.weight",
            "layers.0.attention_norm1.weight",
            "layers.0.adaLN_modulation.0.weight",
            "context_refiner.0.attention.to_q.weight",
            "cap_embedder.1.weight",
            "all_final_layer.2-1.linear.weight",
        ] {
            assert_eq!(Precision::Int8.format(tensor), Format::Bf16, "{tensor}");
        }
    }
}
