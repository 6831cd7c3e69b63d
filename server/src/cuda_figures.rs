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
        let counts = [
            (
                "zimage_cuda_eager_forwards",
                "Forwards that could not be recorded as a graph and ran call by call, which is slower",
                zimage_cuda::eager_forwards(),
            ),
            (
                "zimage_cuda_decodes_in_strips",
                "Images that were decoded in strips because memory was short, which is slower",
                zimage_cuda::decoded_in_strips(),
            ),
        ];
        for (name, help, count) in counts {
            let count = ConstCounter::new(count);
            count.encode(encoder.encode_descriptor(name, help, None, count.metric_type())?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;

    #[test]
    fn what_is_slower_than_it_should_be_is_counted() {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(CudaFigures));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for name in ["eager_forwards", "decodes_in_strips"] {
            let line = format!("zimage_cuda_{name}_total 0");
            assert!(text.contains(&line), "{text}");
        }
    }
}
