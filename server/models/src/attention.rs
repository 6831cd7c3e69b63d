//! Scaled dot-product attention without a score matrix of the whole sequence.

use candle_core::{D, Device, Result, Tensor};

/// Scores that are held at once: 64 MiB.
const SCORES: usize = 16 << 20;

/// softmax(q k^T / sqrt(width)) v for (heads, tokens, width), in slices of queries.
///
/// With `causal` a query sees the keys up to its own position.
pub(crate) fn attend(q: &Tensor, k: &Tensor, v: &Tensor, causal: bool) -> Result<Tensor> {
    let (heads, queries, width) = q.dims3()?;
    let keys = k.dim(1)?;
    let slice = slice(heads, queries, keys);
    // Scaled before the product, as a smaller tensor.
    let q = (q * (1.0 / (width as f64).sqrt()))?;
    let k = k.transpose(1, 2)?;
    let mut outputs = Vec::with_capacity(queries.div_ceil(slice));
    for start in (0..queries).step_by(slice) {
        let length = slice.min(queries - start);
        // (heads, length, keys)
        let mut scores = q.narrow(1, start, length)?.matmul(&k)?;
        if causal {
            scores = scores.broadcast_add(&causal_mask(start, length, keys)?)?;
        }
        outputs.push(candle_nn::ops::softmax_last_dim(&scores)?.matmul(v)?);
    }
    Tensor::cat(&outputs, D::Minus2)
}

/// Queries whose scores are held at once: as many as the bound allows, and at least one.
fn slice(heads: usize, queries: usize, keys: usize) -> usize {
    (SCORES / (heads * keys)).clamp(1, queries)
}

/// Minus infinity where a key comes after the query.
fn causal_mask(start: usize, length: usize, keys: usize) -> Result<Tensor> {
    let row =
        |query: usize| (0..keys).map(move |key| if key > query { f32::NEG_INFINITY } else { 0.0 });
    let mask: Vec<f32> = (start..start + length).flat_map(row).collect();
    Tensor::from_vec(mask, (1, length, keys), &Device::Cpu)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(shape: (usize, usize, usize)) -> Tensor {
        let numbers =
            zimage_core::noise::Generator::new(shape.1 as u64).randn(shape.0 * shape.1 * shape.2);
        Tensor::from_vec(numbers, shape, &Device::Cpu).unwrap()
    }

    #[test]
    fn slices_scores_stay_within_the_bound() {
        for (heads, tokens) in [(1, 16384), (30, 4096 + 512), (30, 16384 + 512), (1, SCORES)] {
            let slice = slice(heads, tokens, tokens);
            assert!(
                slice * heads * tokens <= SCORES,
                "{heads} heads, {tokens} tokens"
            );
            assert!(
                slice < tokens,
                "one slice holds {heads} heads, {tokens} tokens"
            );
        }
        assert_eq!(slice(1, 10, 10), 10, "what is small is one slice");
    }

    #[test]
    fn slices_of_queries_give_what_the_whole_gives() {
        assert!(slice(1, 2100, 8000) < 2100, "two slices are needed");
        let (q, k, v) = (
            random((1, 2100, 8)),
            random((1, 8000, 8)),
            random((1, 8000, 8)),
        );
        let sliced = attend(&q, &k, &v, false).unwrap();
        for start in [0, 2090] {
            let part = attend(&q.narrow(1, start, 10).unwrap(), &k, &v, false).unwrap();
            let difference = (sliced.narrow(1, start, 10).unwrap() - part)
                .unwrap()
                .abs()
                .unwrap();
            assert!(difference.max_all().unwrap().to_scalar::<f32>().unwrap() < 1e-6);
        }
    }

    #[test]
    fn causal_queries_do_not_see_later_keys() {
        let (q, k, v) = (random((2, 6, 4)), random((2, 6, 4)), random((2, 6, 4)));
        let whole = attend(&q, &k, &v, true).unwrap().narrow(1, 0, 3).unwrap();
        let first = |x: &Tensor| x.narrow(1, 0, 3).unwrap();
        let alone = attend(&first(&q), &first(&k), &first(&v), true).unwrap();
        let difference = (whole - alone).unwrap().abs().unwrap();
        assert!(difference.max_all().unwrap().to_scalar::<f32>().unwrap() < 1e-6);
    }
}
