//! What was measured, for people and for machines.

use super::parts::{Parts, Samples};
use serde_json::{Value, json};

const HEADING: [&str; 13] = [
    "size", "steps", "tokens", "text", "step", "decode", "p50", "p99", "sd", "png", "http p50",
    "http p99", "http sd",
];

/// A table.
pub(crate) fn text(start_up: f64, measured: &[Parts]) -> String {
    let line = |cells: [String; 13]| {
        let cells = cells.iter().map(|cell| format!("{cell:>10}"));
        cells.collect::<String>() + "\n"
    };
    let rows: String = measured.iter().map(|parts| line(row(parts))).collect();
    format!(
        "milliseconds; p50, p99 and sd (standard deviation) are from the prompt to pixels, those of http to the PNG\n\
         {}{rows}ready after {start_up:.1} s",
        line(HEADING.map(str::to_owned))
    )
}

fn row(parts: &Parts) -> [String; 13] {
    let ms = |seconds: f64| format!("{:.1}", 1e3 * seconds);
    let (request, http) = (&parts.request, &parts.http);
    [
        format!("{}x{}", parts.width, parts.height),
        parts.steps.to_string(),
        parts.tokens.to_string(),
        ms(parts.begin.median()),
        ms(parts.step.median()),
        ms(parts.decode.median()),
        ms(request.median()),
        ms(request.percentile(0.99)),
        ms(request.deviation()),
        ms(parts.png.median()),
        ms(http.median()),
        ms(http.percentile(0.99)),
        ms(http.deviation()),
    ]
}

/// Everything, in seconds.
pub(crate) fn json(start_up: f64, measured: &[Parts]) -> Value {
    let samples = |samples: &Samples| {
        json!({
            "p50": samples.median(),
            "p99": samples.percentile(0.99),
            "sd": samples.deviation(),
        })
    };
    let of_size = |parts: &Parts| {
        json!({
            "width": parts.width,
            "height": parts.height,
            "num_inference_steps": parts.steps,
            "prompt_tokens": parts.tokens,
            "text": samples(&parts.begin),
            "step": samples(&parts.step),
            "decode": samples(&parts.decode),
            "pixels": samples(&parts.request),
            "png": samples(&parts.png),
            "http": samples(&parts.http),
        })
    };
    let sizes: Vec<Value> = measured.iter().map(of_size).collect();
    json!({"unit": "s", "start_up": start_up, "sizes": sizes})
}
