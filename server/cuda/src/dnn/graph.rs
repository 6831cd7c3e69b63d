//! Operation graphs: tensors and the operations between them.

use super::descriptor::Descriptor;
use crate::error::GpuError;
use cudarc::cudnn::sys::{
    cudnnBackendAttributeName_t as Name, cudnnBackendDescriptorType_t as Kind,
    cudnnConvolutionMode_t, cudnnDataType_t, cudnnHandle_t, cudnnPointwiseMode_t as Pointwise,
    cudnnReduceTensorOp_t as Reduction,
};

pub(super) const FLOAT: cudnnDataType_t = cudnnDataType_t::CUDNN_DATA_FLOAT;
pub(super) const BFLOAT16: cudnnDataType_t = cudnnDataType_t::CUDNN_DATA_BFLOAT16;
pub(super) const INT32: cudnnDataType_t = cudnnDataType_t::CUDNN_DATA_INT32;
pub(super) const BOOLEAN: cudnnDataType_t = cudnnDataType_t::CUDNN_DATA_BOOLEAN;

/// A tensor of a graph, by its place among the descriptors.
#[derive(Clone, Copy)]
pub(super) struct Tensor(usize);

/// Dimensions and strides.
pub(super) type Extent = ([i64; 4], [i64; 4]);

/// Strides of a tensor without gaps.
pub(super) fn packed(sizes: [i64; 4]) -> Extent {
    let [_, b, c, d] = sizes;
    (sizes, [b * c * d, c * d, d, 1])
}

/// A graph while it is built, and what a plan needs of it afterwards.
#[derive(Default)]
pub struct Graph {
    /// In the order in which they were made: operations refer to earlier ones.
    pub(super) descriptors: Vec<Descriptor>,
    operations: Vec<usize>,
    /// Identities of the tensors in device memory.
    pub(super) tensors: Vec<i64>,
    /// Identities and values of the numbers that are given with each execution.
    pub(super) scalars: Vec<(i64, f32)>,
    identities: i64,
}

impl Graph {
    fn push(&mut self, descriptor: Descriptor) -> usize {
        self.descriptors.push(descriptor);
        self.descriptors.len() - 1
    }

    fn tensor(
        &mut self,
        dtype: cudnnDataType_t,
        (sizes, strides): Extent,
        flag: Option<Name>,
    ) -> Result<(i64, Tensor), GpuError> {
        self.identities += 1;
        let tensor = Descriptor::new(Kind::CUDNN_BACKEND_TENSOR_DESCRIPTOR)?;
        tensor.set(Name::CUDNN_ATTR_TENSOR_DATA_TYPE, &[dtype])?;
        tensor.set(Name::CUDNN_ATTR_TENSOR_DIMENSIONS, &sizes)?;
        tensor.set(Name::CUDNN_ATTR_TENSOR_STRIDES, &strides)?;
        tensor.set(Name::CUDNN_ATTR_TENSOR_UNIQUE_ID, &[self.identities])?;
        tensor.set(Name::CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, &[16i64])?;
        if let Some(flag) = flag {
            tensor.set(flag, &[true])?;
        }
        let place = self.push(tensor.finalize("a tensor")?);
        Ok((self.identities, Tensor(place)))
    }

    /// A tensor in device memory, whose pointer is given with each execution in the order of these calls.
    pub(super) fn real(
        &mut self,
        dtype: cudnnDataType_t,
        extent: Extent,
    ) -> Result<Tensor, GpuError> {
        let (identity, tensor) = self.tensor(dtype, extent, None)?;
        self.tensors.push(identity);
        Ok(tensor)
    }

    /// A tensor between two operations, which is never stored.
    pub(super) fn between(
        &mut self,
        dtype: cudnnDataType_t,
        extent: Extent,
    ) -> Result<Tensor, GpuError> {
        let (_, tensor) = self.tensor(dtype, extent, Some(Name::CUDNN_ATTR_TENSOR_IS_VIRTUAL))?;
        Ok(tensor)
    }

    /// A number.
    pub(super) fn scalar(&mut self, value: f32) -> Result<Tensor, GpuError> {
        let by_value = Some(Name::CUDNN_ATTR_TENSOR_IS_BY_VALUE);
        let (identity, tensor) = self.tensor(FLOAT, ([1; 4], [1; 4]), by_value)?;
        self.scalars.push((identity, value));
        Ok(tensor)
    }

    /// Gives an operation its description and its tensors.
    fn operation(
        &mut self,
        kind: Kind,
        (name, description): (Name, Descriptor),
        tensors: &[(Name, Tensor)],
        finish: impl FnOnce(&Descriptor) -> Result<(), GpuError>,
    ) -> Result<(), GpuError> {
        let operation = Descriptor::new(kind)?;
        operation.set(name, &[description.0])?;
        for &(name, Tensor(place)) in tensors {
            operation.set(name, &[self.descriptors[place].0])?;
        }
        finish(&operation)?;
        let operation = operation.finalize("an operation")?;
        self.push(description);
        let place = self.push(operation);
        self.operations.push(place);
        Ok(())
    }

    /// `c = a * b`, added up in float32.
    pub(super) fn matmul(&mut self, a: Tensor, b: Tensor, c: Tensor) -> Result<(), GpuError> {
        let description = Descriptor::new(Kind::CUDNN_BACKEND_MATMUL_DESCRIPTOR)?;
        description.set(Name::CUDNN_ATTR_MATMUL_COMP_TYPE, &[FLOAT])?;
        let description = description.finalize("a product")?;
        let tensors = [
            (Name::CUDNN_ATTR_OPERATION_MATMUL_ADESC, a),
            (Name::CUDNN_ATTR_OPERATION_MATMUL_BDESC, b),
            (Name::CUDNN_ATTR_OPERATION_MATMUL_CDESC, c),
        ];
        let name = Name::CUDNN_ATTR_OPERATION_MATMUL_DESC;
        let kind = Kind::CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR;
        self.operation(kind, (name, description), &tensors, |_| Ok(()))
    }

    /// `y = mode(x, ...)` in a precision; `others` are the second operand and the selection's condition.
    pub(super) fn pointwise(
        &mut self,
        mode: Pointwise,
        precision: cudnnDataType_t,
        (x, others): (Tensor, &[Tensor]),
        y: Tensor,
    ) -> Result<(), GpuError> {
        self.pointwise_with(mode, precision, (x, others), y, |_| Ok(()))
    }

    /// `y` = each element's place along an axis.
    pub(super) fn index(&mut self, x: Tensor, y: Tensor, axis: i64) -> Result<(), GpuError> {
        self.pointwise_with(
            Pointwise::CUDNN_POINTWISE_GEN_INDEX,
            INT32,
            (x, &[]),
            y,
            |description| description.set(Name::CUDNN_ATTR_POINTWISE_AXIS, &[axis]),
        )
    }

    fn pointwise_with(
        &mut self,
        mode: Pointwise,
        precision: cudnnDataType_t,
        (x, others): (Tensor, &[Tensor]),
        y: Tensor,
        describe: impl FnOnce(&Descriptor) -> Result<(), GpuError>,
    ) -> Result<(), GpuError> {
        let description = Descriptor::new(Kind::CUDNN_BACKEND_POINTWISE_DESCRIPTOR)?;
        description.set(Name::CUDNN_ATTR_POINTWISE_MODE, &[mode])?;
        description.set(Name::CUDNN_ATTR_POINTWISE_MATH_PREC, &[precision])?;
        describe(&description)?;
        let description = description.finalize("a pointwise operation")?;
        let names = [
            Name::CUDNN_ATTR_OPERATION_POINTWISE_BDESC,
            Name::CUDNN_ATTR_OPERATION_POINTWISE_TDESC,
        ];
        let mut tensors = vec![
            (Name::CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x),
            (Name::CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y),
        ];
        tensors.extend(names.into_iter().zip(others.iter().copied()));
        let name = Name::CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR;
        let kind = Kind::CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR;
        self.operation(kind, (name, description), &tensors, |operation| {
            operation.set(Name::CUDNN_ATTR_OPERATION_POINTWISE_ALPHA1, &[1f32])?;
            operation.set(Name::CUDNN_ATTR_OPERATION_POINTWISE_ALPHA2, &[1f32])
        })
    }

    /// Reduces x to y's size.
    pub(super) fn reduce(&mut self, how: Reduction, x: Tensor, y: Tensor) -> Result<(), GpuError> {
        let description = Descriptor::new(Kind::CUDNN_BACKEND_REDUCTION_DESCRIPTOR)?;
        description.set(Name::CUDNN_ATTR_REDUCTION_COMP_TYPE, &[FLOAT])?;
        description.set(Name::CUDNN_ATTR_REDUCTION_OPERATOR, &[how])?;
        let description = description.finalize("a reduction")?;
        let tensors = [
            (Name::CUDNN_ATTR_OPERATION_REDUCTION_XDESC, x),
            (Name::CUDNN_ATTR_OPERATION_REDUCTION_YDESC, y),
        ];
        let name = Name::CUDNN_ATTR_OPERATION_REDUCTION_DESC;
        let kind = Kind::CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR;
        self.operation(kind, (name, description), &tensors, |_| Ok(()))
    }

    /// `y = x` convolved with `weight`: padding before and after, and a stride, the same for height and width.
    pub(super) fn convolve(
        &mut self,
        (x, weight, y): (Tensor, Tensor, Tensor),
        (before, after): (i64, i64),
        stride: i64,
    ) -> Result<(), GpuError> {
        let description = Descriptor::new(Kind::CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR)?;
        let mode = cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION;
        description.set(Name::CUDNN_ATTR_CONVOLUTION_COMP_TYPE, &[FLOAT])?;
        description.set(Name::CUDNN_ATTR_CONVOLUTION_CONV_MODE, &[mode])?;
        description.set(Name::CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, &[2i64])?;
        description.set(Name::CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, &[before; 2])?;
        description.set(Name::CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, &[after; 2])?;
        description.set(Name::CUDNN_ATTR_CONVOLUTION_DILATIONS, &[1i64; 2])?;
        description.set(Name::CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, &[stride; 2])?;
        let description = description.finalize("a convolution")?;
        let tensors = [
            (Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X, x),
            (Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W, weight),
            (Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y, y),
        ];
        let name = Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC;
        let kind = Kind::CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR;
        self.operation(kind, (name, description), &tensors, |operation| {
            operation.set(
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA,
                &[1f32],
            )?;
            operation.set(Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA, &[0f32])
        })
    }

    /// Lets the library check the graph. Needs no GPU.
    ///
    /// # Errors
    /// With the library's message when it refuses.
    pub fn check(&self) -> Result<(), GpuError> {
        self.finalize(None).map(drop)
    }

    pub(super) fn finalize(&self, handle: Option<cudnnHandle_t>) -> Result<Descriptor, GpuError> {
        let graph = Descriptor::new(Kind::CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR)?;
        let operations = self
            .operations
            .iter()
            .map(|&place| self.descriptors[place].0);
        graph.set(
            Name::CUDNN_ATTR_OPERATIONGRAPH_OPS,
            &operations.collect::<Vec<_>>(),
        )?;
        if let Some(handle) = handle {
            graph.set(Name::CUDNN_ATTR_OPERATIONGRAPH_HANDLE, &[handle])?;
        }
        graph.finalize("an operation graph")
    }
}
