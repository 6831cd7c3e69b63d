//! The weights that a LoRA can change, by every name that a file may give them.

use super::key::flat;
use crate::layout::Expected;
use std::collections::HashMap;

/// One weight, or q's, k's and v's below each other, as ComfyUI's files have them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// Names of the tensors, from the first row on; each has the same number of rows.
    pub(crate) tensors: Vec<String>,
    /// Rows and columns of all of them.
    pub(crate) shape: [usize; 2],
}

impl Target {
    /// The tensors' modules, spelt as [`flat`] does.
    pub(crate) fn modules(&self) -> impl Iterator<Item = String> {
        let tensors = self.tensors.iter();
        tensors.map(|tensor| flat(tensor.strip_suffix(".weight").unwrap_or(tensor)))
    }
}

/// Targets by their modules' names, spelt as [`flat`] does.
pub(crate) struct Targets(HashMap<String, Target>);

impl Targets {
    /// Of the tensors that a transformer has.
    pub(crate) fn of(expected: &[Expected]) -> Self {
        let mut targets = HashMap::new();
        let matrices = expected.iter().filter_map(|tensor| {
            let shape = <[usize; 2]>::try_from(tensor.shape.as_slice()).ok()?;
            Some((tensor.name.strip_suffix(".weight")?, shape))
        });
        for (module, shape) in matrices {
            for (name, tensors) in names(module) {
                let shape = [shape[0] * tensors.len(), shape[1]];
                targets.insert(flat(&name), Target { tensors, shape });
            }
        }
        Self(targets)
    }

    pub(crate) fn find(&self, module: &str) -> Option<&Target> {
        self.0.get(module)
    }
}

/// The names of a module in diffusers' layout and in ComfyUI's, each with the tensors that it stands for.
fn names(module: &str) -> Vec<(String, Vec<String>)> {
    let tensor = |module: &str| format!("{module}.weight");
    let mut names = vec![(module.to_owned(), vec![tensor(module)])];
    if let Some(attention) = module.strip_suffix(".to_q") {
        let parts = ["to_q", "to_k", "to_v"].map(|part| tensor(&format!("{attention}.{part}")));
        names.push((format!("{attention}.qkv"), parts.to_vec()));
    }
    if let Some(attention) = module.strip_suffix(".to_out.0") {
        names.push((format!("{attention}.out"), vec![tensor(module)]));
    }
    if let Some(rest) = module.strip_prefix("all_") {
        names.push((rest.replacen(".2-1", "", 1), vec![tensor(module)]));
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout;
    use crate::shape::Shape;
    use crate::single_file::transformer_names;

    fn released() -> Vec<Expected> {
        let mut config = Shape::Tiny.spec().transformer;
        config.n_layers = 30;
        layout::transformer(&config)
    }

    fn modules(expected: &[Expected]) -> impl Iterator<Item = &str> {
        let matrices = expected.iter().filter(|tensor| tensor.shape.len() == 2);
        matrices.filter_map(|tensor| tensor.name.strip_suffix(".weight"))
    }

    #[test]
    fn no_two_modules_are_spelt_alike() {
        let expected = released();
        let all: usize = modules(&expected).map(|module| names(module).len()).sum();
        assert_eq!(Targets::of(&expected).0.len(), all);
    }

    #[test]
    fn names_are_those_of_single_files() {
        let expected = released();
        for (name, tensors) in modules(&expected).flat_map(names) {
            let stored: Vec<String> = transformer_names(&format!("{name}.weight"))
                .into_iter()
                .map(|(tensor, _)| tensor)
                .collect();
            assert_eq!(stored, tensors, "{name}");
        }
    }

    #[test]
    fn joined_projection_has_the_rows_of_three() {
        let targets = Targets::of(&released());
        let target = targets.find("noise_refiner_1_attention_qkv").unwrap();
        assert_eq!(target.shape, [288, 96]);
        assert_eq!(
            target.modules().nth(2).unwrap(),
            "noise_refiner_1_attention_to_v"
        );
    }

    #[test]
    fn norms_and_tokens_are_no_targets() {
        let targets = Targets::of(&released());
        for module in ["x_pad_token", "cap_embedder_0", "layers_0_attention_norm_q"] {
            assert_eq!(targets.find(module), None);
        }
    }
}
