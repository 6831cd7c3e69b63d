//! What the operator, the gateways and the servers agree on beside the API: ports, paths, figures and one bound.
//!
//! Servers know nothing of Kubernetes: they are told their ports by arguments, and `tests/tests/contract.rs` checks that
//! they serve these paths and figures.

/// Port of a deployment's Service for clients.
pub const FRONT_PORT: u16 = 80;
/// Port of a gateway's API and probes.
pub const GATEWAY_PORT: u16 = 8080;
/// Port of a server's API and probes.
pub const SERVER_PORT: u16 = 8000;
/// Port of every pod's metrics.
pub const METRICS_PORT: u16 = 9090;

/// Path of the metrics, in the text formats of Prometheus and OpenMetrics.
pub const METRICS_PATH: &str = "/metrics";
/// Path that answers 200 unless the process must be started again.
pub const HEALTHZ_PATH: &str = "/healthz";
/// Path that answers 200 while requests may be sent.
pub const READYZ_PATH: &str = "/readyz";

/// Figure of a server: share of the time in which a GPU ran a kernel, 0 to 1, one sample for each GPU.
pub const GPU_UTILIZATION: &str = "zimage_gpu_utilization_ratio";
/// Figure of a server that computes on GPUs, and of no other: whether it hears of their faults.
pub const GPU_FAULT_WATCH: &str = "zimage_gpu_fault_watch";
/// Figure of a server: bytes of a GPU's memory in use, one sample for each GPU.
pub const GPU_MEMORY_USED: &str = "zimage_gpu_memory_used_bytes";
/// Figure of a server: images that wait.
pub const REQUESTS_WAITING: &str = "zimage_requests_waiting";
/// Figure of a gateway: seconds since the API server let it see what it follows, one sample for each source.
pub const KNOWLEDGE_AGE: &str = "zimage_gateway_knowledge_age_seconds";

/// Bytes of the largest request body, a server's own bound: an image to start from and its mask, encoded in base64.
pub const MAX_BODY_BYTES: usize = 32 << 20;
