//! LoRA and LoKR files, merged into the transformer's weights while these are read.
//!
//! ```text
//! file ──> Lora: modules, each with its parts ──> LoraChanges: tensor ──> factors, first row, scale ──> += rows
//!          (keys of any layout)                   (fits this transformer)
//! ```
//!
//! The layouts are those that diffusers 0.42.1 reads (`ZImageLoraLoaderMixin`, `lora_conversion_utils.py`): diffusers',
//! PEFT's, ComfyUI's, kohya's and the one with dots; ComfyUI's joined q, k and v in any of them; and LyCORIS's LoKR.

mod factors;
mod key;
mod matrix;
mod metadata;
mod misfits;
mod targets;

use crate::error::CheckpointError;
use crate::layout::Expected;
use crate::shard::Shard;
use crate::tensor::TensorView;
use factors::{Factors, Parts};
use metadata::Adapter;
use misfits::Misfits;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use targets::{Target, Targets};

/// A LoRA or LoKR file, opened: its keys are sorted into modules, which may still not be a transformer's.
pub struct Lora {
    file: Shard,
    scale: f32,
    adapter: Adapter,
    /// By [`key::flat`] names.
    modules: BTreeMap<String, Module>,
    /// Keys that are no part of a LoRA or LoKR.
    unknown: Vec<String>,
}

/// The parts of one module's change.
struct Module {
    /// As the file spells it.
    name: String,
    /// The keys of the tensors.
    parts: Parts,
}

impl Lora {
    /// Reads the file's header. `scale` multiplies every change, and may be negative.
    ///
    /// # Errors
    /// When the file is missing or damaged, has two keys for the same part of a module, or has a scale that is not read;
    /// when `scale` is no finite number.
    pub fn open(path: &Path, scale: f32) -> Result<Self, CheckpointError> {
        let wrong = |problem: String| CheckpointError::new(path, problem);
        if !scale.is_finite() {
            return Err(wrong(format!("the scale {scale} is not a finite number")));
        }
        let file = Shard::open(path.to_owned())?;
        let adapter = file.note(metadata::NAME);
        let adapter = adapter.map(Adapter::parse).transpose();
        let adapter = adapter.map_err(wrong)?.unwrap_or_default();
        let (mut modules, mut unknown) = (BTreeMap::new(), Vec::new());
        for stored in file.names() {
            let Some((name, part)) = key::split(&stored) else {
                unknown.push(stored);
                continue;
            };
            let parts = Parts::new();
            let module = modules
                .entry(key::flat(&name))
                .or_insert(Module { name, parts });
            if let Some(other) = module.parts.insert(part, stored.clone()) {
                let problem = format!("keys {other:?} and {stored:?} are for the same weight");
                return Err(wrong(problem));
            }
        }
        Ok(Self {
            file,
            scale,
            adapter,
            modules,
            unknown,
        })
    }

    /// Finds the weight that each module is for.
    pub(crate) fn fit(self, transformer: &[Expected]) -> Result<LoraChanges, CheckpointError> {
        let targets = Targets::of(transformer);
        let keys = self.file.names().len();
        let (mut misfits, mut redundant) = (Misfits::new(keys), 0);
        for key in &self.unknown {
            misfits.add(1, key, key::unknown(key));
        }
        let mut changes = HashMap::new();
        for (flat, module) in &self.modules {
            let Some(target) = targets.find(flat) else {
                misfits.add(module.parts.len(), &module.name, "there is no such module");
                continue;
            };
            if self.repeats(flat, target) {
                redundant += module.parts.len();
                continue;
            }
            match self.change(module, target) {
                Ok(change) => changes.extend(change),
                Err(reason) => misfits.add(module.parts.len(), &module.name, &reason),
            }
        }
        if let Some(problem) = misfits.problem() {
            return Err(CheckpointError::new(self.file.path(), problem));
        }
        Ok(LoraChanges {
            file: self.file,
            scale: self.scale,
            matched: keys - redundant,
            redundant,
            changes,
        })
    }

    /// Whether the module has a second name, and a module with the first one is there too: some programs write both.
    fn repeats(&self, flat: &str, target: &Target) -> bool {
        let mut others = target.modules().filter(|module| module != flat);
        others.any(|module| self.modules.contains_key(&module))
    }

    /// What the module changes in each tensor of its target.
    fn change(&self, module: &Module, target: &Target) -> Result<Vec<(String, Change)>, String> {
        let (factors, scale) = Factors::read(&self.file, &module.parts, target.shape)?;
        let scale = scale * self.adapter.scale(&module.name) * f64::from(self.scale);
        if !scale.is_finite() {
            return Err(format!("its scale is {scale}"));
        }
        let rows = target.shape[0] / target.tensors.len();
        let change = |(third, tensor): (usize, &String)| {
            let change = Change {
                shape: [rows, target.shape[1]],
                factors: factors.clone(),
                first_row: third * rows,
                scale: scale as f32,
            };
            (tensor.clone(), change)
        };
        Ok(target.tensors.iter().enumerate().map(change).collect())
    }
}

/// What a file changes in one tensor.
struct Change {
    /// The tensor's.
    shape: [usize; 2],
    factors: Factors,
    /// The row of the change that is the tensor's first.
    first_row: usize,
    scale: f32,
}

/// A LoRA or LoKR file that fits the transformer.
pub struct LoraChanges {
    file: Shard,
    scale: f32,
    matched: usize,
    redundant: usize,
    /// By the tensors' names.
    changes: HashMap<String, Change>,
}

impl LoraChanges {
    /// The file.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// What every change is multiplied by, beside what the file says.
    pub const fn scale(&self) -> f32 {
        self.scale
    }

    /// The file's keys that change a weight.
    pub const fn matched_keys(&self) -> usize {
        self.matched
    }

    /// The file's keys that say again, by another name, what the matched ones say. They change nothing.
    pub const fn redundant_keys(&self) -> usize {
        self.redundant
    }

    pub(crate) fn changes_tensor(&self, name: &str) -> bool {
        self.changes.contains_key(name)
    }

    /// The weights that are changed.
    pub fn changed_tensors(&self) -> usize {
        self.changes.len()
    }
}

/// The tensor with every file's change added, in float32; itself when none changes it.
pub(crate) fn merge<'a>(
    loras: &[LoraChanges],
    name: &str,
    stored: TensorView<'a>,
) -> Result<TensorView<'a>, CheckpointError> {
    let changes = loras
        .iter()
        .filter_map(|lora| Some((lora, lora.changes.get(name)?)));
    let mut values = None;
    for (lora, change) in changes {
        if stored.shape != change.shape {
            let problem = format!(
                "changes {name:?} as if it had shape {:?}; it has {:?}",
                change.shape, stored.shape
            );
            return Err(CheckpointError::new(lora.path(), problem));
        }
        let values = values.get_or_insert_with(|| stored.to_f32());
        let delta = change.factors.load(&lora.file)?;
        delta.add_to(values, change.shape[1], change.first_row, change.scale);
    }
    Ok(match values {
        Some(values) => TensorView::owned(stored.shape, &values),
        None => stored,
    })
}

#[cfg(test)]
mod tests;
