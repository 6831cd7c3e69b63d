// Rows of numbers to eight bits. The largest number of a row becomes the largest of the format, and the row's scale is what
// its numbers are to be multiplied by. A row with what is no number stays one, for so is its scale.

// As integers, which are in the order of the numbers that they are the bits of: what is no number is behind all others.
__device__ __forceinline__ float larger(float one, float other) {
  return __uint_as_float(max(__float_as_uint(one), __float_as_uint(other)));
}

// The largest magnitude of a row, of what all threads of the block have.
template <int COUNT>
__device__ __forceinline__ float largest(const float (&y)[COUNT][8]) {
  float most = 0.f;
#pragma unroll
  for (int v = 0; v < COUNT; v++)
#pragma unroll
    for (int i = 0; i < 8; i++) most = larger(most, fabsf(y[v][i]));
  return block_reduce(most, 0.f, [](float one, float other) { return larger(one, other); });
}

// Which vectors of eight numbers of a row a thread has: COUNT of them, of the same 128 numbers, which 16 / COUNT threads in a
// row have. All are inside of a row whose width is a multiple of 128, or none is.
template <int COUNT>
__device__ __forceinline__ int place(int number) {
  constexpr int THREADS = 16 / COUNT;
  return threadIdx.x / THREADS * 16 + number * THREADS + threadIdx.x % THREADS;
}

// Blocks of 128 numbers times a Hadamard matrix of ones, without its factor of 1 / sqrt(128): sums and differences of numbers
// 1, 2, 4, ... 64 apart, so that a block's outliers are spread over all of it. All threads of a warp come here.
template <int COUNT>
__device__ __forceinline__ void rotate(float (&y)[COUNT][8]) {
  const auto pair = [](float &one, float &other) {
    const float sum = one + other;
    other = one - other;
    one = sum;
  };
#pragma unroll
  for (int v = 0; v < COUNT; v++)
#pragma unroll
    for (int apart = 1; apart < 8; apart *= 2)
#pragma unroll
      for (int i = 0; i < 8; i++)
        if (!(i & apart)) pair(y[v][i], y[v][i + apart]);
#pragma unroll
  for (int apart = 1; apart < 16 / COUNT; apart *= 2) {
    const bool second = threadIdx.x & apart;
#pragma unroll
    for (int v = 0; v < COUNT; v++)
#pragma unroll
      for (int i = 0; i < 8; i++) {
        const float other = __shfl_xor_sync(~0u, y[v][i], apart);
        y[v][i] = second ? other - y[v][i] : y[v][i] + other;
      }
  }
#pragma unroll
  for (int apart = 1; apart < COUNT; apart *= 2)
#pragma unroll
    for (int v = 0; v < COUNT; v++)
#pragma unroll
      for (int i = 0; i < 8; i++)
        if (!(v & apart)) pair(y[v][i], y[v + apart][i]);
}

// Each format: what happens to a thread's numbers first, the scale of a row whose largest number is `most` then, and eight
// numbers of it.
struct E4m3 {
  template <int COUNT>
  static __device__ void prepare(float (&)[COUNT][8]) {}

  static __device__ float scale(float most) { return most == 0.f ? 1.f : most * (1.f / 448.f); }

  static __device__ float inverse(float most) { return most == 0.f ? 1.f : 448.f / most; }

  static __device__ uint2 pack(const float (&y)[8], float inverse) {
    const u32 low = pack_e4m3(y[0] * inverse, y[1] * inverse) | pack_e4m3(y[2] * inverse, y[3] * inverse) << 16;
    const u32 high = pack_e4m3(y[4] * inverse, y[5] * inverse) | pack_e4m3(y[6] * inverse, y[7] * inverse) << 16;
    return make_uint2(low, high);
  }
};
struct S8 {
  template <int COUNT>
  static __device__ void prepare(float (&y)[COUNT][8]) {
    rotate(y);
  }

  // With the rotation's factor.
  static __device__ float scale(float most) { return most == 0.f ? 1.f : most * (1.f / (127.f * 11.3137085f)); }

  static __device__ float inverse(float most) { return most == 0.f ? 1.f : 127.f / most; }

  static __device__ uint2 pack(const float (&y)[8], float inverse) {
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
