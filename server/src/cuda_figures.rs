//! What the CUDA engine counts.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use std::fmt;

/// Read from the engine at each scrape.
#[derive(Debug)]
pub(crate) struct CudaFigures;

impl Collector for CudaFigures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let count = ConstCounter::new(zimage_cuda::eager_forwards());
        let (name, help) = (
            "zimage_cuda_eager_forwards",
            "Forwards that could not be recorded as a graph and ran call by call, which is slower",
        );
        count.encode(encoder.encode_descriptor(name, help, None, count.metric_type())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;

    #[test]
    fn forwards_that_ran_call_by_call_are_counted() {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(CudaFigures));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        assert!(
            text.contains("zimage_cuda_eager_forwards_total 0"),
            "{text}"
        );
    }
}
