//! Quantities of resources as Kubernetes writes them.

/// The value of a quantity such as `500m`, `0.5` or `1Gi`: the API server writes it its own way.
///
/// <https://kubernetes.io/docs/reference/kubernetes-api/definitions/quantity-resource-definition/>
pub(crate) fn quantity(text: &str) -> Option<f64> {
    let end = text.find(|character: char| !(character.is_ascii_digit() || character == '.'));
    let (number, suffix) = text.split_at(end.unwrap_or(text.len()));
    let number: f64 = number.parse().ok()?;
    Some(match suffix {
        // Divided: 0.001 has no exact form.
        "m" => number / 1e3,
        "" => number,
        "k" => number * 1e3,
        "M" => number * 1e6,
        "G" => number * 1e9,
        "T" => number * 1e12,
        "Ki" => number * 1024.0,
        "Mi" => number * 1024_f64.powi(2),
        "Gi" => number * 1024_f64.powi(3),
        "Ti" => number * 1024_f64.powi(4),
        _ => return None,
    })
}
