// Rows of bfloat16 to eight bits: one block a row of `vectors` * 8 numbers.

// Vectors of a thread.
constexpr int COUNT = 4;

template <class Format>
__device__ void quantise(uint2 *y, float *scales, const uint4 *x, int vectors) {
  x += (u64)blockIdx.x * vectors;
  y += (u64)blockIdx.x * vectors;
  uint4 bits[COUNT] = {};
  float values[COUNT][8];
#pragma unroll
  for (int v = 0; v < COUNT; v++)
    if (place<COUNT>(v) < vectors) bits[v] = x[place<COUNT>(v)];
#pragma unroll
  for (int v = 0; v < COUNT; v++) unpack8(bits[v], values[v]);
  Format::prepare(values);
  const float most = largest(values), inverse = Format::inverse(most);
  if (threadIdx.x == 0) scales[blockIdx.x] = Format::scale(most);
#pragma unroll
  for (int v = 0; v < COUNT; v++)
    if (place<COUNT>(v) < vectors) y[place<COUNT>(v)] = Format::pack(values[v], inverse);
}

extern "C" __global__ void quantise_e4m3(uint2 *y, float *scales, const uint4 *x, int vectors) {
  after_earlier_work();
  quantise<E4m3>(y, scales, x, vectors);
}

extern "C" __global__ void quantise_s8(uint2 *y, float *scales, const uint4 *x, int vectors) {
  after_earlier_work();
  quantise<S8>(y, scales, x, vectors);
}
