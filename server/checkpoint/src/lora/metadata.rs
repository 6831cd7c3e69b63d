//! What diffusers and PEFT write beside the tensors: `LoraConfig` or `LoKrConfig`, which scale every change.

use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The header's entry, as `save_lora_weights` writes it.
pub(crate) const NAME: &str = "lora_adapter_metadata";

/// PEFT's configuration, as far as it decides the scale.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Adapter {
    r: Option<f64>,
    /// A LoRA's.
    lora_alpha: Option<f64>,
    /// A LoKR's.
    alpha: Option<f64>,
    rank_pattern: Option<BTreeMap<String, f64>>,
    alpha_pattern: Option<BTreeMap<String, f64>>,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    use_dora: bool,
}

impl Adapter {
    /// Reads the entry's JSON, whose keys begin with the component's name. Fields that do not decide the scale may be
    /// anything.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let all: Map<String, Value> = serde_json::from_str(text)
            .map_err(|error| format!("failed to read {NAME}: {error}"))?;
        let own = all.into_iter().filter_map(|(key, value)| {
            let key = key.strip_prefix("transformer.")?.to_owned();
            Some((key, value))
        });
        let own: Map<String, Value> = own.collect();
        if own.is_empty() {
            return Ok(Self::default());
        }
        let adapter: Self = serde_json::from_value(Value::Object(own))
            .map_err(|error| format!("failed to read {NAME}: {error}"))?;
        adapter.check()?;
        Ok(adapter)
    }

    fn check(&self) -> Result<(), String> {
        if self.use_dora {
            return Err(format!("{NAME} says use_dora: DoRA is not read"));
        }
        if self.rank("").is_none() || self.alpha("").is_none() {
            return Err(format!("{NAME} lacks r, or lora_alpha and alpha"));
        }
        let patterns = [&self.rank_pattern, &self.alpha_pattern];
        // PEFT takes regular expressions; what it writes by itself are names.
        let strange = |pattern: &&String| pattern.contains(['*', '+', '?', '|', '(', '[', '\\']);
        let mut names = patterns.into_iter().flatten().flat_map(BTreeMap::keys);
        match names.find(strange) {
            Some(pattern) => Err(format!(
                "{NAME} has the pattern {pattern:?}; names are read"
            )),
            None => Ok(()),
        }
    }

    /// What every change of a module is multiplied by; 1 without metadata.
    pub(crate) fn scale(&self, module: &str) -> f64 {
        let (Some(rank), Some(alpha)) = (self.rank(module), self.alpha(module)) else {
            return 1.0;
        };
        alpha / if self.use_rslora { rank.sqrt() } else { rank }
    }

    fn rank(&self, module: &str) -> Option<f64> {
        of_pattern(self.rank_pattern.as_ref(), module).or(self.r)
    }

    fn alpha(&self, module: &str) -> Option<f64> {
        of_pattern(self.alpha_pattern.as_ref(), module)
            .or(self.lora_alpha)
            .or(self.alpha)
    }
}

/// The value for the module: its name, or the end of it from a dot on, is the key.
fn of_pattern(pattern: Option<&BTreeMap<String, f64>>, module: &str) -> Option<f64> {
    let ends = |key: &str| {
        let key = key.trim_start_matches('^').trim_end_matches('$');
        module
            .strip_suffix(key)
            .is_some_and(|before| before.is_empty() || before.ends_with('.'))
    };
    let (_, value) = pattern?.iter().find(|(key, _)| ends(key))?;
    Some(*value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: &str = r#"{"transformer.r": 4, "transformer.lora_alpha": 8, "text_encoder.r": "x",
        "transformer.rank_pattern": {"^layers.0.attention.to_q": 16}, "transformer.alpha_pattern": {"to_k": 2},
        "transformer.target_modules": ["to_q"]}"#;

    #[test]
    fn scale_is_alpha_over_rank_of_the_module() {
        let adapter = Adapter::parse(FULL).unwrap();
        for (module, scale) in [
            ("transformer.layers.1.attention.to_q", 2.0),
            ("transformer.layers.0.attention.to_q", 0.5),
            ("transformer.layers.0.attention.to_k", 0.5),
            ("transformer.layers.0.attention.into_k", 2.0),
        ] {
            assert_eq!(adapter.scale(module), scale, "{module}");
        }
        assert_eq!(Adapter::parse("{}").unwrap().scale("layers.0"), 1.0);
    }

    #[test]
    fn rank_stabilized_scale_is_over_the_root() {
        let text =
            r#"{"transformer.r": 4, "transformer.alpha": 8, "transformer.use_rslora": true}"#;
        assert_eq!(Adapter::parse(text).unwrap().scale("layers.0"), 4.0);
    }

    #[test]
    fn what_would_give_other_images_is_refused() {
        for (text, reason) in [
            ("[", "failed to read lora_adapter_metadata"),
            (r#"{"transformer.r": 4}"#, "lacks r, or lora_alpha"),
            (r#"{"transformer.use_dora": true}"#, "DoRA is not read"),
            (
                r#"{"transformer.r": 4, "transformer.alpha": 4, "transformer.rank_pattern": {".*to_q": 2}}"#,
                "has the pattern \".*to_q\"",
            ),
        ] {
            let error = Adapter::parse(text).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }
}
