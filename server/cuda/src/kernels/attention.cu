// What cuDNN's fused attention does not serve.

// y = softmax(x * scale) of the first `width` numbers of each row, float32 to bfloat16; zeros up to `stride`.
extern "C" __global__ void softmax(u16 *y, const float *x, float scale, int width, int stride) {
  after_earlier_work();
  const float *row = x + (u64)blockIdx.x * stride;
  u16 *out = y + (u64)blockIdx.x * stride;
  float most = -3.4e38f;
  for (int i = threadIdx.x; i < width; i += blockDim.x) most = fmaxf(most, row[i]);
  most = block_max(most);
  float sum = 0.f;
  for (int i = threadIdx.x; i < width; i += blockDim.x) sum += __expf((row[i] - most) * scale);
  const float inverse = 1.f / block_sum(sum);
  for (int i = threadIdx.x; i < stride; i += blockDim.x)
    out[i] = i < width ? to_bf16(__expf((row[i] - most) * scale) * inverse) : 0;
}

// Attention over rows of (q heads | k heads | v heads), one warp a query and head, with a running softmax. Slow; for
// shapes and machines that cuDNN has no plan for. width <= 256.
extern "C" __global__ void attention(u16 *y, const u16 *rows, int tokens, int heads, int kv_heads, int width,
                                     float scale, int causal) {
  after_earlier_work();
  const int warp = (blockIdx.x * blockDim.x + threadIdx.x) >> 5, lane = threadIdx.x & 31;
  const int token = warp / heads, head = warp % heads, kv_head = head / (heads / kv_heads);
  if (token >= tokens) return;
  const u64 row = (u64)(heads + 2 * kv_heads) * width;
  const u16 *q = rows + token * row + head * width;
  const u16 *k = rows + (heads + kv_head) * width, *v = k + (u64)kv_heads * width;
  float query[8], sum[8], most = -3.4e38f, total = 0.f;
#pragma unroll
  for (int i = 0; i < 8; i++) {
    query[i] = lane + 32 * i < width ? to_float(q[lane + 32 * i]) * scale : 0.f;
    sum[i] = 0.f;
  }
  const int keys = causal ? token + 1 : tokens;
  for (int key = 0; key < keys; key++) {
    float score = 0.f;
#pragma unroll
    for (int i = 0; i < 8; i++)
      if (lane + 32 * i < width) score += query[i] * to_float(k[key * row + lane + 32 * i]);
    for (int offset = 16; offset; offset >>= 1) score += __shfl_xor_sync(~0u, score, offset);
    const float higher = fmaxf(most, score), keep = __expf(most - higher), weight = __expf(score - higher);
    most = higher;
    total = total * keep + weight;
#pragma unroll
    for (int i = 0; i < 8; i++)
      if (lane + 32 * i < width) sum[i] = sum[i] * keep + weight * to_float(v[key * row + lane + 32 * i]);
  }
#pragma unroll
  for (int i = 0; i < 8; i++)
    if (lane + 32 * i < width) y[((u64)token * heads + head) * width + lane + 32 * i] = to_bf16(sum[i] / total);
}
