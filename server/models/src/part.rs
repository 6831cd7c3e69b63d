//! Layers read from a part of a checkpoint, in float32 on the CPU.

use crate::error::LoadError;
use candle_core::{Device, Tensor};
use candle_nn::{Conv2d, Conv2dConfig, Linear};
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
        self.conv_with(inputs, outputs, kernel, same_size)
    }

    pub(crate) fn conv_with(
        &self,
        inputs: usize,
        outputs: usize,
        kernel: usize,
        config: Conv2dConfig,
    ) -> Result<Conv2d, LoadError> {
        let weight = self.tensor("weight", &[outputs, inputs, kernel, kernel])?;
        Ok(Conv2d::new(
            weight,
            Some(self.tensor("bias", &[outputs])?),
            config,
        ))
    }
}
