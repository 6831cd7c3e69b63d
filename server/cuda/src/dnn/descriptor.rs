//! cuDNN's objects: created, given attributes, finalized, destroyed.

use crate::error::GpuError;
use cudarc::cudnn::sys::{
    self, cudnnBackendAttributeName_t as Name, cudnnBackendAttributeType_t as Type,
    cudnnBackendDescriptorType_t as Kind, cudnnDataType_t, cudnnStatus_t,
};
use std::ffi::{CStr, c_char, c_void};

/// Turns a status into an error with the library's own message.
pub(super) fn check(call: &str, status: cudnnStatus_t) -> Result<(), GpuError> {
    if status == cudnnStatus_t::CUDNN_STATUS_SUCCESS {
        return Ok(());
    }
    let mut message: [c_char; 1024] = [0; 1024];
    // SAFETY: the buffer has the length that is given with it.
    unsafe { sys::cudnnGetLastErrorString(message.as_mut_ptr(), message.len()) };
    // SAFETY: the library ends its message with a zero, and the buffer was all zeros before.
    let message = unsafe { CStr::from_ptr(message.as_ptr()) }.to_string_lossy();
    Err(GpuError::Library {
        call: call.to_owned(),
        problem: format!("{status:?} {}", message.trim()),
    })
}

/// One of the library's objects.
pub(super) struct Descriptor(pub(super) sys::cudnnBackendDescriptor_t);

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: the descriptor was created and is destroyed only here.
        let _ = unsafe { sys::cudnnBackendDestroyDescriptor(self.0) };
    }
}

/// A value of an attribute, with the library's name of its type.
pub(super) trait Value: Copy {
    const TYPE: Type;
}

macro_rules! values {
    ($($value:ty: $name:ident),+ $(,)?) => {
        $(impl Value for $value {
            const TYPE: Type = Type::$name;
        })+
    };
}

values! {
    i64: CUDNN_TYPE_INT64,
    f32: CUDNN_TYPE_FLOAT,
    bool: CUDNN_TYPE_BOOLEAN,
    u64: CUDNN_TYPE_VOID_PTR,
    sys::cudnnHandle_t: CUDNN_TYPE_HANDLE,
    sys::cudnnBackendDescriptor_t: CUDNN_TYPE_BACKEND_DESCRIPTOR,
    cudnnDataType_t: CUDNN_TYPE_DATA_TYPE,
    sys::cudnnPointwiseMode_t: CUDNN_TYPE_POINTWISE_MODE,
    sys::cudnnReduceTensorOp_t: CUDNN_TYPE_REDUCTION_OPERATOR_TYPE,
    sys::cudnnConvolutionMode_t: CUDNN_TYPE_CONVOLUTION_MODE,
    sys::cudnnBackendHeurMode_t: CUDNN_TYPE_HEUR_MODE,
}

impl Descriptor {
    pub(super) fn new(kind: Kind) -> Result<Self, GpuError> {
        let mut descriptor = std::ptr::null_mut();
        // SAFETY: the pointer is to a local.
        check("cudnnBackendCreateDescriptor", unsafe {
            sys::cudnnBackendCreateDescriptor(kind, &mut descriptor)
        })?;
        Ok(Self(descriptor))
    }

    pub(super) fn set<V: Value>(&self, name: Name, values: &[V]) -> Result<(), GpuError> {
        let pointer: *const c_void = values.as_ptr().cast();
        // SAFETY: the descriptor is alive; type and count are those of the slice, which the library copies.
        check(&format!("setting {name:?}"), unsafe {
            sys::cudnnBackendSetAttribute(self.0, name, V::TYPE, values.len() as i64, pointer)
        })
    }

    pub(super) fn finalize(self, what: &str) -> Result<Self, GpuError> {
        // SAFETY: the descriptor is alive.
        check(&format!("finalizing {what}"), unsafe {
            sys::cudnnBackendFinalize(self.0)
        })?;
        Ok(self)
    }

    pub(super) fn number(&self, name: Name) -> Result<i64, GpuError> {
        let (mut value, mut count) = (0i64, 0i64);
        let pointer: *mut i64 = &mut value;
        // SAFETY: the descriptor is alive; one number is asked for, and the pointer is to one.
        check(&format!("reading {name:?}"), unsafe {
            sys::cudnnBackendGetAttribute(self.0, name, i64::TYPE, 1, &mut count, pointer.cast())
        })?;
        Ok(value)
    }

    /// The descriptors of an attribute, of a kind.
    pub(super) fn list(&self, name: Name, kind: Kind) -> Result<Vec<Self>, GpuError> {
        const TYPE: Type = <sys::cudnnBackendDescriptor_t as Value>::TYPE;
        let mut count = 0;
        let call = format!("reading {name:?}");
        // SAFETY: the descriptor is alive; nothing is asked for but the count.
        check(&call, unsafe {
            sys::cudnnBackendGetAttribute(self.0, name, TYPE, 0, &mut count, std::ptr::null_mut())
        })?;
        let found = (0..count)
            .map(|_| Self::new(kind))
            .collect::<Result<Vec<_>, _>>()?;
        let mut pointers: Vec<_> = found.iter().map(|descriptor| descriptor.0).collect();
        let mut filled = 0;
        // SAFETY: as many descriptors as are asked for are there to be filled.
        check(&call, unsafe {
            sys::cudnnBackendGetAttribute(
                self.0,
                name,
                TYPE,
                count,
                &mut filled,
                pointers.as_mut_ptr().cast(),
            )
        })?;
        Ok(found.into_iter().take(filled as usize).collect())
    }
}
