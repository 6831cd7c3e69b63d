//! Layers read from a part of a checkpoint, in float32 on the CPU.

use crate::error::LoadError;
use candle_core::{DType, Device, Error, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Conv2d, Conv2dConfig, Init, Linear, VarBuilder};
use std::fmt::Display;
use zimage_checkpoint::{Checkpoint, Component, ControlNet};

/// A module's place in a checkpoint: its weights are below one name.
pub(crate) struct Part<'a> {
    source: Source<'a>,
    name: String,
}

/// Whose weights are read.
#[derive(Clone, Copy)]
enum Source<'a> {
    Model(&'a Checkpoint, Component),
    ControlNet(&'a ControlNet),
}

impl<'a> Part<'a> {
    pub(crate) const fn root(checkpoint: &'a Checkpoint, component: Component) -> Self {
        Self {
            source: Source::Model(checkpoint, component),
            name: String::new(),
        }
    }

    pub(crate) const fn control_net(control_net: &'a ControlNet) -> Self {
        Self {
            source: Source::ControlNet(control_net),
            name: String::new(),
        }
    }

    /// The module below this one.
    pub(crate) fn at(&self, name: impl Display) -> Self {
        Self {
            name: self.join(name),
            ..*self
        }
    }

    fn join(&self, name: impl Display) -> String {
        if self.name.is_empty() {
            name.to_string()
        } else {
            format!("{}.{name}", self.name)
        }
    }

    pub(crate) fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor, LoadError> {
        let name = self.join(name);
        let view = match self.source {
            Source::Model(checkpoint, component) => {
                checkpoint.tensor_of_shape(component, &name, shape)?
            }
            Source::ControlNet(control_net) => control_net.tensor_of_shape(&name, shape)?,
        };
        Ok(Tensor::from_vec(view.to_f32(), shape, &Device::Cpu)?)
    }

    /// The same place as candle-transformers' blocks read it.
    pub(crate) fn var_builder(&self) -> VarBuilder<'a> {
        let weights = Self {
            name: self.name.clone(),
            ..*self
        };
        VarBuilder::from_backend(Box::new(weights), DType::F32, Device::Cpu)
    }

    pub(crate) fn weight(&self, size: usize) -> Result<Tensor, LoadError> {
        self.tensor("weight", &[size])
    }

    pub(crate) fn linear(&self, inputs: usize, outputs: usize) -> Result<Linear, LoadError> {
        let bias = self.tensor("bias", &[outputs])?;
        Ok(Linear::new(
            self.tensor("weight", &[outputs, inputs])?,
            Some(bias),
        ))
    }

    pub(crate) fn linear_no_bias(
        &self,
        inputs: usize,
        outputs: usize,
    ) -> Result<Linear, LoadError> {
        Ok(Linear::new(
            self.tensor("weight", &[outputs, inputs])?,
            None,
        ))
    }

    /// A convolution that keeps the size: 1 x 1 or 3 x 3.
    pub(crate) fn conv(
        &self,
        inputs: usize,
        outputs: usize,
        kernel: usize,
    ) -> Result<Conv2d, LoadError> {
        let same_size = Conv2dConfig {
            padding: kernel / 2,
            ..Conv2dConfig::default()
        };
        let weight = self.tensor("weight", &[outputs, inputs, kernel, kernel])?;
        Ok(Conv2d::new(
            weight,
            Some(self.tensor("bias", &[outputs])?),
            same_size,
        ))
    }
}

impl SimpleBackend for Part<'_> {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _init: Init,
        _dtype: DType,
        _device: &Device,
    ) -> candle_core::Result<Tensor> {
        self.tensor(name, shape.dims()).map_err(Error::wrap)
    }

    fn get_unchecked(
        &self,
        name: &str,
        _dtype: DType,
        _device: &Device,
    ) -> candle_core::Result<Tensor> {
        Err(Error::msg(format!("{name} is asked for without a shape")))
    }

    /// Blocks ask for what may be missing alone, and these have nothing that may.
    fn contains_tensor(&self, _name: &str) -> bool {
        false
    }
}
