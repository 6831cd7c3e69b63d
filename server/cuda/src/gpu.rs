//! One GPU: its context, the one stream that everything runs on, and the engine's kernels.

use crate::error::{GpuError, LoadError};
use crate::kernels::{self, Cache, SOURCES};
use crate::launch::Launch;
use crate::libraries::{self, Libraries};
use crate::memory::{Elastic, Memory, Pinned, Region};
use cudarc::driver::sys::{
    self, CUdevice_attribute, CUevent_flags, CUfunction_attribute_enum, CUgraphInstantiate_flags,
    CUstreamCaptureMode,
};
use cudarc::driver::{
    CudaContext, CudaEvent, CudaFunction, CudaGraph, CudaStream, DeviceRepr, result,
};
use cudarc::nvrtc::Ptx;
use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

/// The least compute capability: bfloat16 needs it.
const LEAST_CAPABILITY: (i32, i32) = (8, 0);

/// Which GPU, and where its compiled kernels are kept.
#[derive(Clone, Debug, Default)]
pub struct GpuOptions {
    /// Its number among the visible ones.
    pub ordinal: usize,
    /// Folder for compiled kernels and chosen algorithms, which several processes may share. `None`: nothing is kept.
    pub cache: Option<PathBuf>,
    /// File of algorithms that were fastest on a GPU of the same kind, which come before the cache's.
    pub tuning: Option<PathBuf>,
    /// Folder whose CUDA libraries are opened before any other.
    pub libraries: Option<PathBuf>,
    /// Bytes of the GPU's memory that are in use at most, those of other processes included. `None`: all of it.
    pub memory_limit: Option<usize>,
}

/// What the start-up check found.
#[derive(Clone, Debug)]
pub struct Properties {
    /// Its name, "NVIDIA H100 80GB HBM3".
    pub name: String,
    /// Compute capability.
    pub capability: (i32, i32),
    /// Bytes of memory.
    pub memory: usize,
    /// Streaming multiprocessors.
    pub multiprocessors: usize,
    /// Whether memory errors are corrected.
    pub ecc: bool,
    /// Versions of the driver and the libraries.
    pub libraries: Libraries,
}

impl fmt::Display for Properties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = self.capability;
        let ecc = if self.ecc { "on" } else { "off" };
        let gib = self.memory as f64 / f64::from(1 << 30);
        let name = &self.name;
        let libraries = &self.libraries;
        write!(
            f,
            "{name}, compute capability {major}.{minor}, {gib:.1} GiB, ECC {ecc}; {libraries}"
        )
    }
}

/// A GPU that is ready to compute.
pub struct Gpu {
    functions: HashMap<&'static str, CudaFunction>,
    stream: Arc<CudaStream>,
    context: Arc<CudaContext>,
    properties: Properties,
    memory_limit: usize,
}

impl Gpu {
    /// Checks libraries, driver and GPU, and loads the kernels.
    ///
    /// # Errors
    /// Says what is missing, too old, or broken.
    pub fn open(options: &GpuOptions) -> Result<Self, LoadError> {
        if let Some(folder) = &options.libraries {
            libraries::open_from(folder)?;
        }
        let libraries = libraries::check()?;
        let count = CudaContext::device_count().map_err(|error| {
            LoadError::NoGpu(format!("the driver found none: {}", GpuError::from(error)))
        })?;
        let ordinal = options.ordinal;
        if ordinal >= count as usize {
            return Err(LoadError::NoGpu(format!(
                "number {ordinal} was asked for, and {count} are visible"
            )));
        }
        let context = CudaContext::new(ordinal)?;
        let properties = Properties {
            name: context.name()?,
            capability: context.compute_capability()?,
            memory: context.total_mem()?,
            multiprocessors: context
                .attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?
                as usize,
            ecc: context.attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_ECC_ENABLED)? != 0,
            libraries,
        };
        capable(&properties)?;
        // SAFETY: no memory was allocated yet, and all work goes to one stream, so no event is needed to order it.
        unsafe { context.disable_event_tracking() };
        Ok(Self {
            functions: load_kernels(&context, &properties, options.cache.as_deref())?,
            stream: context.new_stream()?,
            memory_limit: options.memory_limit.unwrap_or(usize::MAX),
            context,
            properties,
        })
    }

    /// What the start-up check found.
    pub const fn properties(&self) -> &Properties {
        &self.properties
    }

    pub(crate) const fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// Makes the GPU the calling thread's.
    ///
    /// # Errors
    /// When the driver refuses.
    pub fn bind(&self) -> Result<(), GpuError> {
        Ok(self.context.bind_to_thread()?)
    }

    /// Bytes free and in all.
    ///
    /// # Errors
    /// When the driver reports an earlier fault.
    pub fn memory(&self) -> Result<(usize, usize), GpuError> {
        Ok(self.context.mem_get_info()?)
    }

    /// Bytes that may be taken still.
    pub(crate) fn room(&self) -> Result<usize, GpuError> {
        let (free, all) = self.memory()?;
        let most = self.memory_limit.min(all);
        Ok(most.saturating_sub(all - free))
    }

    /// Fails when so many bytes more would be too many.
    pub(crate) fn require_room(&self, bytes: usize) -> Result<(), GpuError> {
        let (free, all) = self.memory()?;
        let (needs, limit) = (all - free + bytes, self.memory_limit.min(all));
        if needs > limit {
            return Err(GpuError::NoRoom { needs, limit });
        }
        Ok(())
    }

    /// Reserves memory, uninitialised.
    ///
    /// # Errors
    /// When there is none left, or none within the limit; see [`GpuError::is_out_of_memory`].
    pub fn allocate(&self, bytes: usize) -> Result<Memory, GpuError> {
        self.require_room(bytes)?;
        Memory::allocate(&self.context, bytes)
    }

    /// Memory that grows up to all of the GPU's, and has none yet. Whoever lets it grow sees to the limit.
    pub(crate) fn elastic(&self) -> Result<Elastic, GpuError> {
        Elastic::new(&self.context, self.properties.memory)
    }

    /// Reserves host memory that the GPU copies from and to directly.
    ///
    /// # Errors
    /// When there is none left.
    pub fn pinned(&self, bytes: usize) -> Result<Pinned, GpuError> {
        Pinned::allocate(&self.context, bytes)
    }

    pub(crate) fn event(&self) -> Result<CudaEvent, GpuError> {
        let flags = CUevent_flags::CU_EVENT_DISABLE_TIMING;
        Ok(self.context.new_event(Some(flags))?)
    }

    /// Waits for all work.
    ///
    /// # Errors
    /// When any of it failed.
    pub fn synchronize(&self) -> Result<(), GpuError> {
        Ok(self.stream.synchronize()?)
    }

    /// A launch of a kernel, without its arguments.
    pub(crate) fn kernel(&self, name: &'static str) -> Result<Launch<'_>, GpuError> {
        Ok(self.launch(self.function(name)?))
    }

    /// The same with more shared memory than a kernel has without asking.
    pub(crate) fn kernel_with_memory(
        &self,
        name: &'static str,
        bytes: usize,
    ) -> Result<Launch<'_>, GpuError> {
        let function = self.function(name)?;
        let most = CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        function.set_attribute(most, bytes as i32)?;
        Ok(self.launch(function))
    }

    fn launch<'a>(&'a self, function: &'a CudaFunction) -> Launch<'a> {
        Launch::new(&self.stream, function, self.properties.capability.0 >= 9)
    }

    fn function(&self, name: &'static str) -> Result<&CudaFunction, GpuError> {
        let function = self.functions.get(name);
        function.ok_or_else(|| GpuError::Bounds(format!("there is no kernel {name}")))
    }

    /// Copies to the GPU. The values may go as soon as this returns.
    ///
    /// # Errors
    /// When the region is too small, or the driver reports a fault.
    pub fn upload<T: DeviceRepr>(&self, to: Region, values: &[T]) -> Result<(), GpuError> {
        to.require(size_of_val(values))?;
        self.context.bind_to_thread()?;
        // SAFETY: the region has room. The source is pageable, so the driver copies it before it returns.
        Ok(unsafe { result::memcpy_htod_async(to.pointer(), values, self.stream.cu_stream()) }?)
    }

    /// Fills a region with values, again and again.
    ///
    /// # Errors
    /// When the driver reports a fault.
    pub(crate) fn upload_repeated<T: DeviceRepr>(
        &self,
        to: Region,
        values: &[T],
    ) -> Result<(), GpuError> {
        let most = to.bytes() / size_of::<T>();
        let values = &values[..values.len().min(most)];
        self.upload(to, values)?;
        let mut done = size_of_val(values);
        while done > 0 && done < to.bytes() {
            let next = done.min(to.bytes() - done);
            self.copy(to.part(done, next)?, to, next)?;
            done += next;
        }
        Ok(())
    }

    /// Copies the first bytes of pinned memory to the GPU; they must not change until that is done.
    pub(crate) fn upload_pinned(
        &self,
        to: Region,
        from: &Pinned,
        bytes: usize,
    ) -> Result<(), GpuError> {
        to.require(bytes)?;
        if bytes > from.len() {
            return Err(GpuError::Bounds(format!(
                "{bytes} bytes are copied of {}",
                from.len()
            )));
        }
        // SAFETY: both have room, and the callers wait for the copy before the source changes or goes.
        let status = unsafe {
            sys::cuMemcpyHtoDAsync_v2(
                to.pointer(),
                from.pointer().cast(),
                bytes,
                self.stream.cu_stream(),
            )
        };
        Ok(status.result()?)
    }

    /// Waits for all work and copies from the GPU.
    ///
    /// # Errors
    /// When the region is too small, or any work failed.
    pub fn download<T: DeviceRepr + Default + Clone>(
        &self,
        from: Region,
        count: usize,
    ) -> Result<Vec<T>, GpuError> {
        from.require(count * size_of::<T>())?;
        self.stream.synchronize()?;
        let mut values = vec![T::default(); count];
        // SAFETY: the region holds that many bytes, and every bit pattern is a number.
        unsafe { result::memcpy_dtoh_sync(&mut values, from.pointer()) }?;
        Ok(values)
    }

    /// Waits for all work and copies from the GPU: the first bytes of pinned memory.
    pub(crate) fn download_pinned<'a>(
        &self,
        from: Region,
        to: &'a mut Pinned,
        bytes: usize,
    ) -> Result<&'a [u8], GpuError> {
        from.require(bytes)?;
        if bytes > to.len() {
            return Err(GpuError::Bounds(format!(
                "{bytes} bytes are copied to {}",
                to.len()
            )));
        }
        // SAFETY: both have room, and the stream is waited for before the destination is read.
        let status = unsafe {
            sys::cuMemcpyDtoHAsync_v2(
                to.pointer().cast(),
                from.pointer(),
                bytes,
                self.stream.cu_stream(),
            )
        };
        status.result()?;
        self.stream.synchronize()?;
        Ok(&to.bytes()[..bytes])
    }

    /// Copies within the GPU.
    ///
    /// # Errors
    /// When a region is too small, or the driver reports a fault.
    pub fn copy(&self, to: Region, from: Region, bytes: usize) -> Result<(), GpuError> {
        to.require(bytes)?;
        from.require(bytes)?;
        // SAFETY: both regions hold that many bytes.
        Ok(unsafe {
            result::memcpy_dtod_async(to.pointer(), from.pointer(), bytes, self.stream.cu_stream())
        }?)
    }

    /// Copies another GPU's memory, whose work is done, into as much of this one's: directly where the two have a link, and
    /// else through the host.
    ///
    /// # Errors
    /// When there is more of it, or the driver reports a fault.
    pub(crate) fn copy_peer(&self, to: &Memory, from: &Memory) -> Result<(), GpuError> {
        let bytes = from.region().bytes();
        to.region().require(bytes)?;
        self.context.bind_to_thread()?;
        // SAFETY: both hold that many bytes, each in the context that is named with it, and both outlive the copy: callers
        // wait for this GPU before either goes.
        let status = unsafe {
            sys::cuMemcpyPeerAsync(
                to.region().pointer(),
                to.context().cu_ctx(),
                from.region().pointer(),
                from.context().cu_ctx(),
                bytes,
                self.stream.cu_stream(),
            )
        };
        Ok(status.result()?)
    }

    /// Sets a region to zero.
    ///
    /// # Errors
    /// When the driver reports a fault.
    pub fn clear(&self, region: Region) -> Result<(), GpuError> {
        // SAFETY: the region is memory of this GPU.
        Ok(unsafe {
            result::memset_d8_async(region.pointer(), 0, region.bytes(), self.stream.cu_stream())
        }?)
    }

    /// Records what `work` would do instead of doing it.
    ///
    /// # Errors
    /// When `work` fails, or does what cannot be recorded. Nothing was done then.
    pub fn capture(
        &self,
        work: impl FnOnce() -> Result<(), GpuError>,
    ) -> Result<CudaGraph, GpuError> {
        self.stream
            .begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)?;
        let worked = work();
        let graph = self.stream.end_capture(CUgraphInstantiate_flags(0));
        worked?;
        let graph = graph?.ok_or_else(|| GpuError::library("cuStreamEndCapture", "no graph"))?;
        graph.upload()?;
        Ok(graph)
    }
}

/// The UUIDs of the GPUs that this process may compute on, in CUDA's order.
///
/// # Errors
/// When the driver is missing or fails.
pub fn uuids() -> Result<Vec<[u8; 16]>, LoadError> {
    libraries::open_driver()?;
    let of = |error| LoadError::from(GpuError::from(error));
    result::init().map_err(of)?;
    let count = result::device::get_count().map_err(of)?;
    let uuid = |ordinal| {
        let device = result::device::get(ordinal)?;
        let uuid = result::device::get_uuid(device)?;
        // The bytes are C's plain chars, whose sign is the platform's own.
        Ok(uuid.bytes.map(|byte| byte as u8))
    };
    let uuids: Result<_, result::DriverError> = (0..count).map(uuid).collect();
    uuids.map_err(of)
}

fn capable(properties: &Properties) -> Result<(), LoadError> {
    if properties.capability >= LEAST_CAPABILITY {
        return Ok(());
    }
    let (name, (major, minor)) = (&properties.name, properties.capability);
    Err(LoadError::NoGpu(format!(
        "{name} has compute capability {major}.{minor}; 8.0 (Ampere) is the least"
    )))
}

/// Compiles or reads every kernel, several files at once.
fn load_kernels(
    context: &Arc<CudaContext>,
    properties: &Properties,
    folder: Option<&Path>,
) -> Result<HashMap<&'static str, CudaFunction>, LoadError> {
    let (major, minor) = properties.capability;
    let architecture = kernels::architecture(major, minor);
    let Libraries { nvrtc, driver, .. } = properties.libraries;
    let cache = Cache::new(folder, &architecture, nvrtc, driver);
    let compiled: Vec<Result<Vec<u8>, GpuError>> = thread::scope(|scope| {
        let compile = |source| cache.get(source, || kernels::compile(source, &architecture));
        let threads: Vec<_> = SOURCES
            .iter()
            .map(|source| scope.spawn(move || compile(source)))
            .collect();
        let join = |thread: thread::ScopedJoinHandle<'_, _>| {
            thread
                .join()
                .unwrap_or_else(|_| Err(GpuError::library("compile", "the compiler panicked")))
        };
        threads.into_iter().map(join).collect()
    });
    let mut functions = HashMap::new();
    for (source, code) in SOURCES.iter().zip(compiled) {
        let module = context.load_module(Ptx::from_binary(code?))?;
        for &kernel in source.kernels {
            functions.insert(kernel, module.load_function(kernel)?);
        }
    }
    Ok(functions)
}
