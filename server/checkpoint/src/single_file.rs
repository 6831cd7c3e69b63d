//! The names that ComfyUI's files give a transformer's tensors, as diffusers' `single_file_utils.py` reads them.

use crate::stored::Names;

/// The names in diffusers' layout of a tensor of a single file. None for a tensor that nothing uses.
pub(crate) fn transformer_names(stored: &str) -> Names {
    let name = stored
        .strip_prefix("model.diffusion_model.")
        .unwrap_or(stored);
    if name == "norm_final.weight" {
        return Vec::new();
    }
    if let Some(block) = name.strip_suffix(".attention.qkv.weight") {
        let part = |(third, part)| (format!("{block}.attention.{part}.weight"), Some(third));
        return ["to_q", "to_k", "to_v"]
            .into_iter()
            .enumerate()
            .map(part)
            .collect();
    }
    let mut name = name
        .replace(".attention.out.", ".attention.to_out.0.")
        .replace(".attention.q_norm.", ".attention.norm_q.")
        .replace(".attention.k_norm.", ".attention.norm_k.");
    if name.starts_with("x_embedder.") || name.starts_with("final_layer.") {
        name = format!("all_{}", name.replacen('.', ".2-1.", 1));
    }
    vec![(name, None)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(stored: &str) -> Vec<String> {
        transformer_names(stored)
            .into_iter()
            .map(|(name, _)| name)
            .collect()
    }

    #[test]
    fn comfyui_names_become_diffusers_names() {
        for (stored, expected) in [
            (
                "model.diffusion_model.x_embedder.weight",
                "all_x_embedder.2-1.weight",
            ),
            (
                "final_layer.adaLN_modulation.1.bias",
                "all_final_layer.2-1.adaLN_modulation.1.bias",
            ),
            (
                "layers.3.attention.out.weight",
                "layers.3.attention.to_out.0.weight",
            ),
            (
                "noise_refiner.0.attention.q_norm.weight",
                "noise_refiner.0.attention.norm_q.weight",
            ),
            (
                "context_refiner.1.attention.k_norm.weight",
                "context_refiner.1.attention.norm_k.weight",
            ),
            (
                "layers.0.adaLN_modulation.0.weight",
                "layers.0.adaLN_modulation.0.weight",
            ),
        ] {
            assert_eq!(names(stored), [expected]);
        }
        assert!(names("norm_final.weight").is_empty());
    }

    #[test]
    fn diffusers_names_stay() {
        for tensor in crate::layout::transformer(&crate::shape::Shape::Odd.spec().transformer) {
            assert_eq!(names(&tensor.name), [tensor.name]);
        }
    }

    #[test]
    fn joined_projection_is_three_tensors() {
        let thirds = transformer_names("layers.0.attention.qkv.weight");
        assert_eq!(
            thirds[1],
            ("layers.0.attention.to_k.weight".to_owned(), Some(1))
        );
        assert_eq!(thirds.len(), 3);
    }
}
