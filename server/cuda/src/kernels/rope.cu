// Norm of each head of q and k, then the rotary embedding, in place in rows of (q heads | k heads | v heads).
//
// One warp a token and head; table holds (cosine, sine) float32 for each token and pair of a head.

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

// Pairs are neighbours (diffusers' Z-Image).
extern "C" __global__ void qk_norm_rope_interleaved(u16 *rows, const u16 *q_weight, const u16 *k_weight,
                                                    const float2 *table, int tokens, int q_heads, int k_heads, int row,
                                                    int width, float eps) {
  int token;
  bool is_q;
  u16 *head = find_head(rows, tokens, q_heads, k_heads, row, width, &token, &is_q);
  if (!head) return;
  const u16 *weight = is_q ? q_weight : k_weight;
  const float r = weight ? head_norm(head, width, eps) : 1.f;
  u32 *pairs = (u32 *)head;
  for (int i = threadIdx.x & 31; i < width / 2; i += 32) {
    const u32 bits = pairs[i];
    float a = __uint_as_float(bits << 16), b = __uint_as_float(bits & 0xffff0000u);
    if (weight) {
      const u32 w = ((const u32 *)weight)[i];
      a *= r * __uint_as_float(w << 16);
      b *= r * __uint_as_float(w & 0xffff0000u);
    }
    const float2 turn = table[(u64)token * (width / 2) + i];
    pairs[i] = pack(a * turn.x - b * turn.y, a * turn.y + b * turn.x);
  }
}

// Pairs are half a head apart (transformers' Qwen3).
extern "C" __global__ void qk_norm_rope_halves(u16 *rows, const u16 *q_weight, const u16 *k_weight,
                                               const float2 *table, int tokens, int q_heads, int k_heads, int row,
                                               int width, float eps) {
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
