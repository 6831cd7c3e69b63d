//! What was measured, for people and for machines.

use super::parts::{Parts, Samples};
use serde_json::{Value, json};

/// A line of the table, with the heading before the first.
pub(crate) fn row(parts: &Parts, first: bool) -> String {
    let size = format!("{}x{}", parts.width, parts.height);
    let ms = |samples: &Samples| format!("{:.1}", 1e3 * samples.median());
    let cells = [
        size,
        parts.steps.to_string(),
        parts.tokens.to_string(),
        ms(&parts.begin),
        ms(&parts.step),
        ms(&parts.decode),
        ms(&parts.png),
        ms(&parts.request),
        format!("{:.1}", 1e3 * parts.request.percentile(0.99)),
        format!("{:.1}", 1e3 * parts.request.deviation()),
    ];
    let heading = [
        "size",
        "steps",
        "tokens",
        "text",
        "step",
        "decode",
        "png",
        "p50",
        "p99",
        "deviation",
    ];
    let line = |cells: Vec<String>| {
        cells
            .iter()
            .map(|cell| format!("{cell:>10}"))
            .collect::<String>()
    };
    let own = line(cells.to_vec());
    if !first {
        return own;
    }
    let heading = line(heading.map(str::to_owned).to_vec());
    format!("milliseconds; p50, p99 and deviation are from the prompt to pixels\n{heading}\n{own}")
}

/// Everything, in seconds.
pub(crate) fn json(start_up: f64, measured: &[Parts]) -> Value {
    let samples = |samples: &Samples| {
        json!({
            "p50": samples.median(),
            "p99": samples.percentile(0.99),
            "deviation": samples.deviation(),
        })
    };
    let of_size = |parts: &Parts| {
        json!({
            "width": parts.width,
            "height": parts.height,
            "num_inference_steps": parts.steps,
            "prompt_tokens": parts.tokens,
            "begin": samples(&parts.begin),
            "step": samples(&parts.step),
            "decode": samples(&parts.decode),
            "png": samples(&parts.png),
            "request": samples(&parts.request),
        })
    };
    let sizes: Vec<Value> = measured.iter().map(of_size).collect();
    json!({"unit": "s", "start_up": start_up, "sizes": sizes})
}
