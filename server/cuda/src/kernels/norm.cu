// Norms over rows of `vectors` * 8 numbers: one block a row. Those whose names end in s8 give rows of eight bits.

// Results of a row, each of which begins at `y`, and the vectors of a thread, COUNT. Every thread of the block comes here;
// those behind the row's end are not `inside`, and have zeros.
struct ToBf16 {
  typedef uint4 Vector;
  static constexpr int COUNT = 1;

  static __device__ void write(Vector *y, float *, bool inside, const float (&values)[COUNT][8]) {
    if (inside) y[place<COUNT>(0)] = pack8(values[0]);
  }
};
struct ToS8 {
  typedef uint2 Vector;
  static constexpr int COUNT = 4;

  static __device__ void write(Vector *y, float *scale, bool inside, float (&values)[COUNT][8]) {
    S8::prepare(values);
    const float most = largest(values), inverse = S8::inverse(most);
    if (threadIdx.x == 0) *scale = S8::scale(most);
    if (!inside) return;
#pragma unroll
    for (int v = 0; v < COUNT; v++) y[place<COUNT>(v)] = S8::pack(values[v], inverse);
  }
};

// The sum of a row's squares, of what all threads of the block have.
template <int COUNT>
__device__ __forceinline__ float sum_of_squares(const float (&values)[COUNT][8]) {
  float sum = 0.f;
#pragma unroll
  for (int v = 0; v < COUNT; v++)
#pragma unroll
    for (int i = 0; i < 8; i++) sum += values[v][i] * values[v][i];
  return block_sum(sum);
}

template <class Result>
__device__ void rms_norm_to(typename Result::Vector *y, float *scales, const uint4 *x, const uint4 *weight, const float *scale,
                            int vectors, float eps) {
  constexpr int COUNT = Result::COUNT;
  const u64 row = (u64)blockIdx.x * vectors;
  const bool inside = place<COUNT>(0) < vectors;
  float values[COUNT][8] = {};
#pragma unroll
  for (int v = 0; v < COUNT; v++)
    if (inside) unpack8(x[row + place<COUNT>(v)], values[v]);
  const float r = rsqrtf(sum_of_squares(values) / (vectors * 8) + eps);
#pragma unroll
  for (int v = 0; v < COUNT; v++) {
    if (!inside) break;
    float w[8], s[8] = {1, 1, 1, 1, 1, 1, 1, 1};
    unpack8(weight[place<COUNT>(v)], w);
    if (scale) load8(scale + place<COUNT>(v) * 8, s);
#pragma unroll
    for (int i = 0; i < 8; i++) values[v][i] *= r * w[i] * s[i];
  }
  Result::write(y + row, scales + blockIdx.x, inside, values);
}

// y = rms_norm(x) * weight * scale; scale (float32) may be null.
extern "C" __global__ void rms_norm(uint4 *y, float *scales, const uint4 *x, const uint4 *weight, const float *scale,
                                    int vectors, float eps) {
  after_earlier_work();
  rms_norm_to<ToBf16>(y, scales, x, weight, scale, vectors, eps);
}

extern "C" __global__ void rms_norm_s8(uint2 *y, float *scales, const uint4 *x, const uint4 *weight, const float *scale,
                                       int vectors, float eps) {
  after_earlier_work();
  rms_norm_to<ToS8>(y, scales, x, weight, scale, vectors, eps);
}

// What is added to x: h, normed and multiplied by the weight and the gate (float32). Either may be null.
struct Added {
  const uint4 *h, *weight;
  const float *gate;
};

template <class Result>
__device__ void add_norm_to(typename Result::Vector *y, float *scales, uint4 *x, const Added &add, const uint4 *next_weight,
                            const float *next_scale, int vectors, float eps) {
  constexpr int COUNT = Result::COUNT;
  const u64 row = (u64)blockIdx.x * vectors;
  const bool inside = place<COUNT>(0) < vectors;
  float added[COUNT][8] = {}, values[COUNT][8] = {}, w[8], s[8];
  uint4 before[COUNT] = {};
#pragma unroll
  for (int v = 0; v < COUNT; v++) {
    if (!inside) break;
    // On its way while the first norm is computed.
    before[v] = x[row + place<COUNT>(v)];
    unpack8(add.h[row + place<COUNT>(v)], added[v]);
  }
  if (add.weight) {
    const float r = rsqrtf(sum_of_squares(added) / (vectors * 8) + eps);
#pragma unroll
    for (int v = 0; v < COUNT; v++) {
      if (!inside) break;
      unpack8(add.weight[place<COUNT>(v)], w);
#pragma unroll
      for (int i = 0; i < 8; i++) added[v][i] *= r * w[i];
    }
  }
#pragma unroll
  for (int v = 0; v < COUNT; v++) {
    if (!inside) break;
    if (add.gate) {
      load8(add.gate + place<COUNT>(v) * 8, s);
#pragma unroll
      for (int i = 0; i < 8; i++) added[v][i] *= s[i];
    }
    unpack8(before[v], values[v]);
#pragma unroll
    for (int i = 0; i < 8; i++) values[v][i] += added[v][i];
    const uint4 rounded = pack8(values[v]);
    x[row + place<COUNT>(v)] = rounded;
    unpack8(rounded, values[v]);
  }
  if (!y) return;
  const float r = rsqrtf(sum_of_squares(values) / (vectors * 8) + eps);
#pragma unroll
  for (int v = 0; v < COUNT; v++) {
    if (!inside) break;
    unpack8(next_weight[place<COUNT>(v)], w);
    if (next_scale) {
      load8(next_scale + place<COUNT>(v) * 8, s);
#pragma unroll
      for (int i = 0; i < 8; i++) w[i] *= s[i];
    }
#pragma unroll
    for (int i = 0; i < 8; i++) values[v][i] *= r * w[i];
  }
  Result::write(y + row, scales + blockIdx.x, inside, values);
}

// x += gate * rms_norm(h) * weight, then y = rms_norm(x) * next_weight * next_scale.
// gate and next_scale (float32) may be null, which is one; with a null y only x is written; with a null weight h is
// added as it is.
extern "C" __global__ void add_norm(uint4 *y, float *scales, uint4 *x, const Added add, const uint4 *next_weight,
                                    const float *next_scale, int vectors, float eps) {
  after_earlier_work();
  add_norm_to<ToBf16>(y, scales, x, add, next_weight, next_scale, vectors, eps);
}

extern "C" __global__ void add_norm_s8(uint2 *y, float *scales, uint4 *x, const Added add, const uint4 *next_weight,
                                       const float *next_scale, int vectors, float eps) {
  after_earlier_work();
  add_norm_to<ToS8>(y, scales, x, add, next_weight, next_scale, vectors, eps);
}

// y = layer_norm(x) * scale, without weights; scale is float32.
extern "C" __global__ void layer_norm(uint4 *y, const uint4 *x, const float *scale, int vectors, float eps) {
  after_earlier_work();
  const u64 at = (u64)blockIdx.x * vectors + threadIdx.x;
  const bool inside = threadIdx.x < vectors;
  float values[8] = {}, sum = 0.f;
  if (inside) unpack8(x[at], values);
#pragma unroll
  for (int i = 0; i < 8; i++) sum += values[i];
  const float mean = block_sum(sum) / (vectors * 8);
  sum = 0.f;
#pragma unroll
  for (int i = 0; i < 8; i++) {
    values[i] -= mean;
    sum += values[i] * values[i];
  }
  const float r = rsqrtf(block_sum(inside ? sum : 0.f) / (vectors * 8) + eps);
  if (!inside) return;
  float s[8];
  load8(scale + threadIdx.x * 8, s);
#pragma unroll
  for (int i = 0; i < 8; i++) values[i] *= r * s[i];
  y[at] = pack8(values);
}
