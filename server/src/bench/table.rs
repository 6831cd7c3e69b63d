//! What was measured, for people and for machines.

use super::Measured;
use super::parts::{Parts, Samples};
use serde_json::{Value, json};

const HEADING: [&str; 16] = [
    "size", "steps", "tokens", "text", "step", "decode", "p50", "p99", "sd", "png", "http p50",
    "http p99", "http sd", "ceiling", "W", "J/image",
];

fn line(cells: impl IntoIterator<Item = String>) -> String {
    let cells = cells.into_iter().map(|cell| format!("{cell:>10}"));
    cells.collect::<String>() + "\n"
}

fn or_dash(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
}

/// Tables.
pub(crate) fn text(measured: &Measured) -> String {
    let rows = measured
        .sizes
        .iter()
        .map(|parts| line(row(measured, parts)));
    format!(
        "milliseconds; p50, p99 and sd (standard deviation) are from the prompt to pixels, those of http to the PNG;\n\
         ceiling is the share of a step that its products and attention would take at what the libraries reach\n\
         {}{}{}{}{}",
        line(HEADING.map(str::to_owned)),
        rows.collect::<String>(),
        batches(&measured.sizes),
        several(&measured.sizes),
        summary(measured)
    )
}

fn row(measured: &Measured, parts: &Parts) -> [String; 16] {
    let ms = |seconds: f64| format!("{:.1}", 1e3 * seconds);
    let (request, http) = (&parts.request, &parts.http);
    let share = measured.share(parts).map(|share| 100.0 * share);
    [
        size(parts),
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
        share.map_or_else(|| "-".to_owned(), |share| format!("{share:.0} %")),
        or_dash(parts.watts(), 0),
        or_dash(parts.joules_per_image(), 0),
    ]
}

fn size(parts: &Parts) -> String {
    format!("{}x{}", parts.width, parts.height)
}

/// Images a second.
fn batches(sizes: &[Parts]) -> String {
    let Some(first) = sizes.first().filter(|parts| !parts.batches.is_empty()) else {
        return String::new();
    };
    let heading = first
        .batches
        .iter()
        .map(|(batch, _)| format!("batch {batch}"));
    let heading = line(std::iter::once("images/s".to_owned()).chain(heading));
    let rows = sizes.iter().map(|parts| {
        let rates = parts.batches.iter().map(|(_, rate)| format!("{rate:.3}"));
        line(std::iter::once(size(parts)).chain(rates))
    });
    heading + &rows.collect::<String>()
}

/// Images a second by the number of GPUs, and how many times those of one.
fn several(sizes: &[Parts]) -> String {
    let with = |parts: &&Parts| !parts.several.is_empty();
    let Some(first) = sizes.iter().find(with) else {
        return String::new();
    };
    let heading = first.several.iter().map(|(count, _)| match count {
        1 => "1 GPU".to_owned(),
        _ => format!("{count} GPUs"),
    });
    let ends = ["times".to_owned(), "http".to_owned()];
    let heading = line(
        std::iter::once("images/s".to_owned())
            .chain(heading)
            .chain(ends),
    );
    let rows = sizes.iter().filter(with).map(|parts| {
        let rates = parts.several.iter().map(|(_, rate)| *rate);
        let times = rates.clone().next_back().zip(rates.clone().next());
        let times = times.map(|(all, one)| all / one);
        let ends = [or_dash(times, 3), or_dash(parts.several_http, 3)];
        let rates = rates.map(|rate| format!("{rate:.3}"));
        line(std::iter::once(size(parts)).chain(rates).chain(ends))
    });
    heading + &rows.collect::<String>()
}

fn summary(measured: &Measured) -> String {
    let ready = format!("ready after {:.1} s", measured.start_up);
    let memory = measured.memory.map_or_else(String::new, |bytes| {
        format!(
            "; {:.1} GiB of the GPU's memory at most",
            bytes as f64 / f64::from(1 << 30)
        )
    });
    let ceilings = measured.ceilings.map_or_else(String::new, |ceilings| {
        let (product, attention) = (ceilings.product / 1e12, ceilings.attention / 1e12);
        format!("; ceilings: products {product:.0} TFLOP/s, attention {attention:.0} TFLOP/s")
    });
    ready + &memory + &ceilings
}

/// Everything, in seconds, bytes, watts and joules.
pub(crate) fn json(measured: &Measured) -> Value {
    let samples = |samples: &Samples| {
        json!({
            "p50": samples.median(),
            "p99": samples.percentile(0.99),
            "sd": samples.deviation(),
        })
    };
    let of_gpus = |&(gpus, rate): &(usize, f64)| json!({"gpus": gpus, "images_per_second": rate});
    let of_size = |parts: &Parts| {
        let batch =
            |&(batch, rate): &(u32, f64)| json!({"batch": batch, "images_per_second": rate});
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
            "ceiling_share": measured.share(parts),
            "watts": parts.watts(),
            "joules_per_image": parts.joules_per_image(),
            "memory": parts.memory,
            "batches": parts.batches.iter().map(batch).collect::<Vec<_>>(),
            "gpus": parts.several.iter().map(of_gpus).collect::<Vec<_>>(),
            "gpus_http_images_per_second": parts.several_http,
        })
    };
    let sizes: Vec<Value> = measured.sizes.iter().map(of_size).collect();
    json!({
        "start_up": measured.start_up,
        "memory": measured.memory,
        "product_flops": measured.ceilings.map(|ceilings| ceilings.product),
        "attention_flops": measured.ceilings.map(|ceilings| ceilings.attention),
        "sizes": sizes,
    })
}
