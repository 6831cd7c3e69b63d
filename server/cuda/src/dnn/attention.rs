//! Fused scaled dot-product attention.

use super::graph::{BFLOAT16, BOOLEAN, Extent, FLOAT, Graph, INT32, packed};
use crate::error::GpuError;
use crate::shapes::Attention;
use cudarc::cudnn::sys::{cudnnPointwiseMode_t as Pointwise, cudnnReduceTensorOp_t as Reduction};

impl Attention {
    /// The pattern that the library's fused engines know, its logarithm of the sums included, which nobody reads.
    /// Tensors: q, k, v, y.
    ///
    /// # Errors
    /// With the library's message when it refuses a part.
    pub fn graph(&self) -> Result<Graph, GpuError> {
        let sizes = self.heads;
        let [tokens, heads, kv_heads, width, row] = [
            sizes.tokens,
            sizes.heads,
            sizes.kv_heads,
            sizes.width,
            sizes.row(),
        ]
        .map(|size| size as i64);
        let of_row =
            |heads: i64| -> Extent { ([1, heads, tokens, width], [tokens * row, width, row, 1]) };
        let (k_sizes, k_strides) = ([1, kv_heads, width, tokens], [tokens * row, width, 1, row]);
        let y_row = heads * width;
        let y_extent = ([1, heads, tokens, width], [tokens * y_row, width, y_row, 1]);
        let scores = packed([1, heads, tokens, tokens]);
        let one_a_row = packed([1, heads, tokens, 1]);

        let mut graph = Graph::default();
        let q = graph.real(BFLOAT16, of_row(heads))?;
        let k = graph.real(BFLOAT16, (k_sizes, k_strides))?;
        let v = graph.real(BFLOAT16, of_row(kv_heads))?;
        let y = graph.real(BFLOAT16, y_extent)?;

        let products = graph.between(FLOAT, scores)?;
        graph.matmul(q, k, products)?;
        let scale = graph.scalar(1.0 / (sizes.width as f32).sqrt())?;
        let mut scaled = graph.between(FLOAT, scores)?;
        graph.pointwise(
            Pointwise::CUDNN_POINTWISE_MUL,
            FLOAT,
            (products, &[scale]),
            scaled,
        )?;
        if self.causal {
            let (query, key) = (graph.between(INT32, scores)?, graph.between(INT32, scores)?);
            graph.index(scaled, query, 2)?;
            graph.index(scaled, key, 3)?;
            let seen = graph.between(BOOLEAN, scores)?;
            graph.pointwise(
                Pointwise::CUDNN_POINTWISE_CMP_GE,
                BOOLEAN,
                (query, &[key]),
                seen,
            )?;
            let never = graph.scalar(f32::NEG_INFINITY)?;
            let masked = graph.between(FLOAT, scores)?;
            let select = Pointwise::CUDNN_POINTWISE_BINARY_SELECT;
            graph.pointwise(select, FLOAT, (scaled, &[never, seen]), masked)?;
            scaled = masked;
        }
        let most = graph.between(FLOAT, one_a_row)?;
        graph.reduce(Reduction::CUDNN_REDUCE_TENSOR_MAX, scaled, most)?;
        let below = graph.between(FLOAT, scores)?;
        graph.pointwise(
            Pointwise::CUDNN_POINTWISE_SUB,
            FLOAT,
            (scaled, &[most]),
            below,
        )?;
        let exponentials = graph.between(FLOAT, scores)?;
        graph.pointwise(
            Pointwise::CUDNN_POINTWISE_EXP,
            FLOAT,
            (below, &[]),
            exponentials,
        )?;
        let sum = graph.between(FLOAT, one_a_row)?;
        graph.reduce(Reduction::CUDNN_REDUCE_TENSOR_ADD, exponentials, sum)?;
        let (logarithm, statistics) = (
            graph.between(FLOAT, one_a_row)?,
            graph.between(FLOAT, one_a_row)?,
        );
        graph.pointwise(Pointwise::CUDNN_POINTWISE_LOG, FLOAT, (sum, &[]), logarithm)?;
        graph.pointwise(
            Pointwise::CUDNN_POINTWISE_ADD,
            FLOAT,
            (most, &[logarithm]),
            statistics,
        )?;
        let weights = graph.between(BFLOAT16, scores)?;
        graph.pointwise(
            Pointwise::CUDNN_POINTWISE_DIV,
            FLOAT,
            (exponentials, &[sum]),
            weights,
        )?;
        graph.matmul(weights, v, y)?;
        Ok(graph)
    }
}
