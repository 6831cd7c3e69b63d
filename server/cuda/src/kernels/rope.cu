// Norm of each head of q and k, then the rotary embedding, in place in rows of (q heads | k heads | v heads).
//
// table holds (cosine, sine) float32 for each token and pair of a head.

// A null weight means that there is no norm.
__device__ __forceinline__ float head_norm(const u16 *head, int width, float eps) {
  float sum = 0.f;
  for (int i = threadIdx.x & 31; i < width; i += 32) {
    const float value = to_float(head[i]);
    sum += value * value;
  }
  for (int offset = 16; offset; offset >>= 1) sum += __shfl_xor_sync(~0u, sum, offset);
  return rsqrtf(sum / width + eps);
}

__device__ __forceinline__ u16 *find_head(u16 *rows, int tokens, int q_heads, int k_heads, int row, int width,
                                          int *token, bool *is_q) {
  const int warp = (blockIdx.x * blockDim.x + threadIdx.x) >> 5;
  *token = warp / (q_heads + k_heads);
  const int head = warp % (q_heads + k_heads);
  *is_q = head < q_heads;
  return *token < tokens ? rows + (u64)*token * row + head * width : nullptr;
}

// Pairs are neighbours (diffusers' Z-Image). One block a token: `lanes` threads, 16 or 32, take a head, eight numbers
// each, and keep their weights and their part of the table for every head that they take.
extern "C" __global__ void qk_norm_rope_interleaved(uint4 *rows, const uint4 *q_weight, const uint4 *k_weight,
                                                    const float *table, int lanes, int q_heads, int k_heads, int row,
                                                    int width, float eps) {
  after_earlier_work();
  const int lane = threadIdx.x % lanes, vectors = width / 8;
  const bool inside = lane < vectors;
  const u32 together = lanes == 32 ? ~0u : 0xffffu << (threadIdx.x & 16);
  uint4 *token = rows + (u64)blockIdx.x * (row / 8);
  float turn[8] = {}, weights[2][8];
  if (inside) {
    load8(table + (u64)blockIdx.x * width + lane * 8, turn);
    if (q_weight) {
      unpack8(q_weight[lane], weights[0]);
      unpack8(k_weight[lane], weights[1]);
    }
  }
#pragma unroll 2
  for (int head = threadIdx.x / lanes; head < q_heads + k_heads; head += blockDim.x / lanes) {
    float values[8] = {};
    if (inside) unpack8(token[head * vectors + lane], values);
    if (q_weight) {
      float sum = 0.f;
#pragma unroll
      for (int i = 0; i < 8; i++) sum += values[i] * values[i];
      for (int offset = lanes / 2; offset; offset >>= 1) sum += __shfl_xor_sync(together, sum, offset);
      const float r = rsqrtf(sum / width + eps);
      const bool q = head < q_heads;
#pragma unroll
      for (int i = 0; i < 8; i++) values[i] *= r * (q ? weights[0][i] : weights[1][i]);
    }
    float turned[8];
#pragma unroll
    for (int i = 0; i < 8; i += 2) {
      turned[i] = values[i] * turn[i] - values[i + 1] * turn[i + 1];
      turned[i + 1] = values[i] * turn[i + 1] + values[i + 1] * turn[i];
    }
    if (inside) token[head * vectors + lane] = pack8(turned);
  }
}

// Pairs are half a head apart (transformers' Qwen3).
extern "C" __global__ void qk_norm_rope_halves(u16 *rows, const u16 *q_weight, const u16 *k_weight,
                                               const float2 *table, int tokens, int q_heads, int k_heads, int row,
                                               int width, float eps) {
  after_earlier_work();
  int token;
  bool is_q;
  u16 *head = find_head(rows, tokens, q_heads, k_heads, row, width, &token, &is_q);
  if (!head) return;
  const u16 *weight = is_q ? q_weight : k_weight;
  const float r = weight ? head_norm(head, width, eps) : 1.f;
  const int half = width / 2;
  for (int i = threadIdx.x & 31; i < half; i += 32) {
    float a = to_float(head[i]), b = to_float(head[i + half]);
    if (weight) {
      a *= r * to_float(weight[i]);
      b *= r * to_float(weight[i + half]);
    }
    const float2 turn = table[(u64)token * half + i];
    head[i] = to_bf16(a * turn.x - b * turn.y);
    head[i + half] = to_bf16(b * turn.x + a * turn.y);
  }
}
