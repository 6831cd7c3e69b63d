//! The figures that the policy needs, out of Prometheus' text exposition format.
//!
//! Follows <https://prometheus.io/docs/instrumenting/exposition_formats/>; every line that is of no family of theirs
//! is passed over, so that a server may expose whatever else it likes.

/// Share of the time in which a GPU ran a kernel, 0 to 1, one sample for each GPU.
pub const UTILIZATION: &str = "zimage_gpu_utilization_ratio";
/// Requests that wait.
pub const WAITING: &str = "zimage_requests_waiting";

/// What one pod reports.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Figures {
    /// Mean over the pod's GPUs, 0 to 1. `None` without a GPU.
    pub(super) utilization: Option<f64>,
    /// Requests that wait.
    pub(super) waiting: u64,
}

/// Reads what a pod answered. Samples that are no finite number count as not there.
pub(super) fn parse(text: &str) -> Figures {
    let values = |family: &'static str| {
        text.lines()
            .filter_map(move |line| value(line, family))
            .filter(|value| value.is_finite())
    };
    let (sum, count) = values(UTILIZATION).fold((0.0, 0_u32), |(sum, count), value| {
        (sum + value.clamp(0.0, 1.0), count + 1)
    });
    Figures {
        utilization: (count > 0).then(|| sum / f64::from(count)),
        // Saturating: a negative or huge gauge becomes the nearest count.
        waiting: values(WAITING).sum::<f64>() as u64,
    }
}

/// The value of a sample line `family{labels} value [timestamp]`.
fn value(line: &str, family: &str) -> Option<f64> {
    let rest = line.strip_prefix(family)?;
    let rest = match rest.strip_prefix('{') {
        Some(labels) => after_labels(labels)?,
        None if rest.starts_with([' ', '\t']) => rest,
        None => return None,
    };
    rest.split_ascii_whitespace().next()?.parse().ok()
}

/// What follows the closing brace; a brace inside a quoted label value does not close.
fn after_labels(labels: &str) -> Option<&str> {
    let mut quoted = false;
    let mut escaped = false;
    for (index, byte) in labels.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'}' if !quoted => return labels.get(index + 1..),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn utilisation_is_the_mean_over_the_gpus_and_the_queue_is_a_sum() {
        let text = "# TYPE zimage_gpu_utilization_ratio gauge\n\
            zimage_gpu_utilization_ratio{gpu=\"0\",uuid=\"a}b\"} 1.0\n\
            zimage_gpu_utilization_ratio{gpu=\"1\"} 0.5 1700000000000\n\
            zimage_requests_waiting 7\n\
            zimage_requests_waiting_total 99\n# EOF\n";
        assert_eq!(
            parse(text),
            Figures {
                utilization: Some(0.75),
                waiting: 7
            }
        );
    }

    #[test]
    fn a_pod_without_gpu_has_no_utilisation() {
        assert_eq!(
            parse("zimage_requests_waiting 0\n"),
            Figures {
                utilization: None,
                waiting: 0
            }
        );
    }

    #[test]
    fn values_that_are_no_numbers_are_passed_over() {
        let text = "zimage_gpu_utilization_ratio NaN\nzimage_gpu_utilization_ratio{\nzimage_requests_waiting x\n";
        assert_eq!(parse(text), Figures::default());
    }

    proptest! {
        #[test]
        fn any_text_gives_figures_in_range(text in "(zimage_gpu_utilization_ratio|zimage_requests_waiting)?\\PC*(\n\\PC*)*") {
            let figures = parse(&text);
            prop_assert!(figures.utilization.is_none_or(|value| (0.0..=1.0).contains(&value)));
        }
    }
}
