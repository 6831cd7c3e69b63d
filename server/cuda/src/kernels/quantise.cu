// Rows of bfloat16 to eight bits: one block a row of `vectors` * 8 numbers. The row's largest becomes the largest number of
// the format, and `scales` holds what the row is to be multiplied by. A row with what is no number stays one.

struct E4m3 {
  static constexpr float MOST = 448.f;

  // y / scale of eight numbers.
  static __device__ uint2 pack(const float *y, float inverse) {
    const u32 low = pack_e4m3(y[0] * inverse, y[1] * inverse) | pack_e4m3(y[2] * inverse, y[3] * inverse) << 16;
    const u32 high = pack_e4m3(y[4] * inverse, y[5] * inverse) | pack_e4m3(y[6] * inverse, y[7] * inverse) << 16;
    return make_uint2(low, high);
  }
};
struct S8 {
  static constexpr float MOST = 127.f;

  static __device__ uint2 pack(const float *y, float inverse) {
    u32 words[2] = {0, 0};
#pragma unroll
    for (int i = 0; i < 8; i++) {
      int number;
      asm("cvt.rni.sat.s8.f32 %0, %1;" : "=r"(number) : "f"(y[i] * inverse));
      words[i / 4] |= (number & 255u) << 8 * (i % 4);
    }
    return make_uint2(words[0], words[1]);
  }
};

template <class Format>
__device__ void quantise(uint2 *y, float *scales, const uint4 *x, int vectors) {
  x += (u64)blockIdx.x * vectors;
  y += (u64)blockIdx.x * vectors;
  float values[8], most = 0.f;
  // As integers, which are in the order of the numbers that they are the bits of: what is no number is behind all others.
  const auto larger = [](float one, float other) {
    return __uint_as_float(max(__float_as_uint(one), __float_as_uint(other)));
  };
  for (int i = threadIdx.x; i < vectors; i += blockDim.x) {
    unpack8(x[i], values);
#pragma unroll
    for (int j = 0; j < 8; j++) most = larger(most, fabsf(values[j]));
  }
  most = block_reduce(most, 0.f, larger);
  const float scale = most == 0.f ? 1.f : most / Format::MOST, inverse = 1.f / scale;
  if (threadIdx.x == 0) scales[blockIdx.x] = scale;
  for (int i = threadIdx.x; i < vectors; i += blockDim.x) {
    unpack8(x[i], values);
    y[i] = Format::pack(values, inverse);
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
