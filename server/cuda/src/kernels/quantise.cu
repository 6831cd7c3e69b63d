// Rows of bfloat16 to eight bits: one block a row of `vectors` * 8 numbers, at most two vectors a thread.
constexpr int EACH = 2;

template <class Format>
__device__ void quantise(uint2 *y, float *scales, const uint4 *x, int vectors) {
  x += (u64)blockIdx.x * vectors;
  y += (u64)blockIdx.x * vectors;
  uint4 bits[EACH] = {};
  float values[EACH][8], most = 0.f;
#pragma unroll
  for (int number = 0; number < EACH; number++) {
    const int i = number * blockDim.x + threadIdx.x;
    if (i < vectors) bits[number] = x[i];
  }
#pragma unroll
  for (int number = 0; number < EACH; number++) {
    unpack8(bits[number], values[number]);
    Format::prepare(values[number]);
    most = larger(most, largest(values[number]));
  }
  most = block_largest(most);
  if (threadIdx.x == 0) scales[blockIdx.x] = Format::scale(most);
  const float inverse = Format::inverse(most);
#pragma unroll
  for (int number = 0; number < EACH; number++) {
    const int i = number * blockDim.x + threadIdx.x;
    if (i < vectors) y[i] = Format::pack(values[number], inverse);
  }
}

extern "C" __global__ void quantise_e4m3(uint2 *y, float *scales, const uint4 *x, int vectors) {
  after_earlier_work();
  quantise<E4m3>(y, scales, x, vectors);
}

extern "C" __global__ void quantise_s8(uint2 *y, float *scales, const uint4 *x, int vectors) {
  after_earlier_work();
  quantise<S8>(y, scales, x, vectors);
}
