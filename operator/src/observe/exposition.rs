//! The figures that the policy needs, out of Prometheus' text exposition format.
//!
//! Follows <https://prometheus.io/docs/instrumenting/exposition_formats/>; every line that is of no family of theirs
//! is passed over, so that a server may expose whatever else it likes. An answer is read as it arrives: no more of it is
//! kept than one line.

use zimage_crds::contract::{
    GPU_FAULT_WATCH, GPU_MEMORY_USED, GPU_UTILIZATION, KNOWLEDGE_AGE, REQUESTS_WAITING,
};

/// A longer line is passed over; one of ours has some hundred bytes.
const MAX_LINE_BYTES: usize = 4096;

/// What one pod reports.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Figures {
    /// Mean over the pod's GPUs, 0 to 1. `None` without a GPU.
    pub(super) utilization: Option<f64>,
    /// It computes on a GPU and shows nothing of it: the driver does not answer. A part of a GPU shows its memory at least.
    pub(super) has_lost_gpu: bool,
    /// Requests that wait.
    pub(super) waiting: u64,
    /// Of a gateway: how old the oldest is of what it knows, in seconds.
    pub(super) knowledge_age: Option<f64>,
}

/// An answer on its way. Samples that are no finite number count as not there.
#[derive(Default)]
pub(super) struct Exposition {
    /// The line that is not complete yet, at most [`MAX_LINE_BYTES`] and one more of it.
    line: Vec<u8>,
    utilization: f64,
    gpus: u32,
    computes_on_gpu: bool,
    shows_memory: bool,
    waiting: f64,
    knowledge_age: Option<f64>,
}

impl Exposition {
    /// Takes the next bytes.
    pub(super) fn push(&mut self, mut bytes: &[u8]) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.keep(&bytes[..end]);
            self.end_line();
            bytes = &bytes[end + 1..];
        }
        self.keep(bytes);
    }

    /// What the whole answer says.
    pub(super) fn finish(mut self) -> Figures {
        self.end_line();
        Figures {
            utilization: (self.gpus > 0).then(|| self.utilization / f64::from(self.gpus)),
            has_lost_gpu: self.computes_on_gpu && self.gpus == 0 && !self.shows_memory,
            // Saturating: a negative or huge gauge becomes the nearest count.
            waiting: self.waiting as u64,
            knowledge_age: self.knowledge_age,
        }
    }

    fn keep(&mut self, part: &[u8]) {
        let room = (MAX_LINE_BYTES + 1).saturating_sub(self.line.len());
        self.line.extend_from_slice(&part[..part.len().min(room)]);
    }

    fn end_line(&mut self) {
        if self.line.len() <= MAX_LINE_BYTES
            && let Ok(line) = std::str::from_utf8(&self.line)
        {
            if let Some(ratio) = value(line, GPU_UTILIZATION) {
                self.utilization += ratio.clamp(0.0, 1.0);
                self.gpus = self.gpus.saturating_add(1);
            } else if value(line, GPU_FAULT_WATCH).is_some() {
                self.computes_on_gpu = true;
            } else if value(line, GPU_MEMORY_USED).is_some() {
                self.shows_memory = true;
            } else if let Some(waiting) = value(line, REQUESTS_WAITING) {
                self.waiting += waiting;
            } else if let Some(age) = value(line, KNOWLEDGE_AGE) {
                let oldest = self.knowledge_age.unwrap_or_default();
                self.knowledge_age = Some(oldest.max(age));
            }
        }
        self.line.clear();
    }
}

/// The finite value of a sample line `family{labels} value [timestamp]`.
fn value(line: &str, family: &str) -> Option<f64> {
    let rest = line.strip_prefix(family)?;
    let rest = match rest.strip_prefix('{') {
        Some(labels) => after_labels(labels)?,
        None if rest.starts_with([' ', '\t']) => rest,
        None => return None,
    };
    let value: f64 = rest.split_ascii_whitespace().next()?.parse().ok()?;
    value.is_finite().then_some(value)
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

    fn parse(text: &str) -> Figures {
        in_chunks(text.as_bytes(), text.len().max(1))
    }

    fn in_chunks(bytes: &[u8], length: usize) -> Figures {
        let mut exposition = Exposition::default();
        for chunk in bytes.chunks(length) {
            exposition.push(chunk);
        }
        exposition.finish()
    }

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
                waiting: 7,
                ..Figures::default()
            }
        );
    }

    #[test]
    fn a_pod_without_gpu_has_no_utilisation() {
        assert_eq!(parse("zimage_requests_waiting 0\n"), Figures::default());
    }

    #[test]
    fn a_pod_that_computes_on_a_gpu_of_which_it_shows_nothing_has_lost_it() {
        let watch = "zimage_gpu_fault_watch 0\n";
        assert!(parse(watch).has_lost_gpu);
        let shown = format!("{watch}zimage_gpu_utilization_ratio{{gpu=\"0\"}} 0.5\n");
        assert!(!parse(&shown).has_lost_gpu);
        let part = format!("{watch}zimage_gpu_memory_used_bytes{{gpu=\"0\"}} 1.0\n");
        assert!(!parse(&part).has_lost_gpu);
    }

    #[test]
    fn what_a_gateway_knows_is_as_old_as_its_oldest_part() {
        let text = "zimage_gateway_knowledge_age_seconds{source=\"deployment\"} 3.5\n\
            zimage_gateway_knowledge_age_seconds{source=\"endpoints\"} 130\n";
        assert_eq!(parse(text).knowledge_age, Some(130.0));
    }

    #[test]
    fn values_that_are_no_numbers_are_passed_over() {
        let text = "zimage_gpu_utilization_ratio NaN\nzimage_gpu_utilization_ratio{\nzimage_requests_waiting x\n";
        assert_eq!(parse(text), Figures::default());
    }

    #[test]
    fn lines_that_are_no_text_or_too_long_are_passed_over_and_the_next_is_read() {
        let mut bytes = b"zimage_requests_waiting\xff 3\nzimage_requests_waiting{a=\"".to_vec();
        bytes.extend(vec![b'a'; 1 << 20]);
        bytes.extend(b"\"} 5\nzimage_requests_waiting 2");
        let mut exposition = Exposition::default();
        exposition.push(&bytes[..1 << 19]);
        assert!(exposition.line.capacity() <= 4 * MAX_LINE_BYTES);
        exposition.push(&bytes[1 << 19..]);
        assert_eq!(exposition.finish().waiting, 2);
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_chunks_give_the_same_figures_in_range(
            text in "(zimage_gpu_utilization_ratio|zimage_requests_waiting)?\\PC*(\n\\PC*)*",
            length in 1..40_usize,
        ) {
            let figures = parse(&text);
            prop_assert!(figures.utilization.is_none_or(|value| (0.0..=1.0).contains(&value)));
            prop_assert_eq!(in_chunks(text.as_bytes(), length), figures);
        }
    }
}
