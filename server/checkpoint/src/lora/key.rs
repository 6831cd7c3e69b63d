//! What a key of a LoRA file says: which module it is for, and which part of that module's change it is.

/// A part of a module's change. W1 to W2B are LoKR's, in LyCORIS's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    /// (rank, inputs): `lora_A` or `lora_down`.
    Down,
    /// (outputs, rank): `lora_B` or `lora_up`.
    Up,
    /// A number: the change is scaled by it over the rank.
    Alpha,
    W1,
    W1A,
    W1B,
    W2,
    W2A,
    W2B,
}

const SUFFIXES: [(&str, Part); 13] = [
    (".lora_A.weight", Part::Down),
    (".lora_B.weight", Part::Up),
    (".lora_down.weight", Part::Down),
    (".lora_up.weight", Part::Up),
    (".lora.down.weight", Part::Down),
    (".lora.up.weight", Part::Up),
    (".alpha", Part::Alpha),
    (".lokr_w1", Part::W1),
    (".lokr_w1_a", Part::W1A),
    (".lokr_w1_b", Part::W1B),
    (".lokr_w2", Part::W2),
    (".lokr_w2_a", Part::W2A),
    (".lokr_w2_b", Part::W2B),
];

/// What programs put before a module's name. The longer of two goes first.
const PREFIXES: [&str; 6] = [
    "base_model_model_",
    "model_diffusion_model_",
    "diffusion_model_",
    "transformer_",
    "lora_unet_",
    "lycoris_",
];

/// The module's name as the file spells it, and the part. None: it is no key of a LoRA or a LoKR.
///
/// PEFT puts its adapter's name before "weight"; only "default", which it gives by itself, is known.
pub(crate) fn split(key: &str) -> Option<(String, Part)> {
    let key = key.replace(".default.", ".");
    let part = |(suffix, part): &(&str, Part)| Some((key.strip_suffix(suffix)?.to_owned(), *part));
    SUFFIXES.iter().find_map(part)
}

/// One spelling for all of a module's: without prefix, and with "_" for each ".", because kohya's keys have no other
/// separator and cannot be spelt the other way without knowing the names.
pub(crate) fn flat(module: &str) -> String {
    let mut name = module.replace('.', "_");
    for prefix in PREFIXES {
        if let Some(rest) = name.strip_prefix(prefix) {
            name = rest.to_owned();
        }
    }
    name
}

/// Why a key that [`split`] does not know cannot be left out.
pub(crate) fn unknown(key: &str) -> &'static str {
    if key.contains("dora_scale") || key.contains("lora_magnitude_vector") {
        "DoRA is not read"
    } else {
        "not a part of a LoRA or LoKR"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_layout_spells_one_module() {
        for key in [
            "transformer.layers.0.attention.to_q.lora_A.weight",
            "diffusion_model.layers.0.attention.to_q.lora_A.weight",
            "model.diffusion_model.layers.0.attention.to_q.lora_down.weight",
            "lora_unet_layers_0_attention_to_q.lora_down.weight",
            "layers.0.attention.to_q.lora_A.default.weight",
            "base_model.model.layers.0.attention.to_q.lora_A.weight",
            "base_model.model.transformer.layers.0.attention.to_q.lora_A.default.weight",
            "diffusion_model.layers.0.attention.to.q.lora.down.weight",
        ] {
            let (module, part) = split(key).unwrap();
            assert_eq!(part, Part::Down);
            assert_eq!(flat(&module), "layers_0_attention_to_q", "{key}");
        }
    }

    #[test]
    fn parts_of_lokr_are_told_apart() {
        for (key, part) in [
            ("lycoris_layers_1_feed_forward_w1.lokr_w1", Part::W1),
            ("lycoris_layers_1_feed_forward_w1.lokr_w2_a", Part::W2A),
            ("lycoris_layers_1_feed_forward_w1.lokr_w1_b", Part::W1B),
            ("lycoris_layers_1_feed_forward_w1.alpha", Part::Alpha),
        ] {
            let (module, found) = split(key).unwrap();
            assert_eq!(found, part);
            assert_eq!(flat(&module), "layers_1_feed_forward_w1");
        }
        assert_eq!(split("layers.0.attention.to_q.lokr_t2"), None);
    }

    #[test]
    fn dora_is_named() {
        let key = "diffusion_model.layers.0.attention.to_q.dora_scale";
        assert_eq!(split(key), None);
        assert_eq!(unknown(key), "DoRA is not read");
    }
}
