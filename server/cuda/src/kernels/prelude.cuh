// Prepended to every kernel source. No header is needed: bfloat16 is handled as bits, arithmetic is single precision.
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

// What every kernel does before it touches memory: it may be in place while the work before it ends.
__device__ __forceinline__ void after_earlier_work() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

__device__ __forceinline__ float to_float(u16 bits) { return __uint_as_float((u32)bits << 16); }

__device__ __forceinline__ u32 pack(float low, float high) {
  u32 bits;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
  return bits;
}

__device__ __forceinline__ u16 to_bf16(float value) { return (u16)pack(value, 0.f); }

// Two numbers of eight bits, four of them of exponent and three of mantissa; what is larger than 448 becomes 448. Chips before
// compute capability 8.9 have no such conversion, and nobody asks them for it.
__device__ __forceinline__ u16 pack_e4m3(float low, float high) {
  u16 bits = 0;
#if __CUDA_ARCH__ >= 890
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(bits) : "f"(high), "f"(low));
#else
  asm volatile("trap;");
#endif
  return bits;
}

// Eight bfloat16 numbers are one 16-byte access.
__device__ __forceinline__ void unpack8(uint4 bits, float *values) {
  const u32 words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
  for (int i = 0; i < 4; i++) {
    values[2 * i] = __uint_as_float(words[i] << 16);
    values[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
  }
}

__device__ __forceinline__ uint4 pack8(const float *values) {
  return make_uint4(pack(values[0], values[1]), pack(values[2], values[3]), pack(values[4], values[5]),
                    pack(values[6], values[7]));
}

__device__ __forceinline__ void load8(const float *source, float *values) {
  const float4 low = ((const float4 *)source)[0], high = ((const float4 *)source)[1];
  values[0] = low.x, values[1] = low.y, values[2] = low.z, values[3] = low.w;
  values[4] = high.x, values[5] = high.y, values[6] = high.z, values[7] = high.w;
}

__device__ __forceinline__ float silu(float x) { return x / (1.f + __expf(-x)); }

// What one value of each thread makes together, in every thread, always in the same order. At most 1024 threads, whole
// warps: each reduces its own, and then the results of all of them.
template <class Combine>
__device__ __forceinline__ float block_reduce(float value, float none, Combine combine) {
  __shared__ float warps[32];
  for (int offset = 16; offset; offset >>= 1) value = combine(value, __shfl_xor_sync(~0u, value, offset));
  // What was reduced before may still be read.
  __syncthreads();
  if ((threadIdx.x & 31) == 0) warps[threadIdx.x >> 5] = value;
  __syncthreads();
  value = (threadIdx.x & 31) < blockDim.x >> 5 ? warps[threadIdx.x & 31] : none;
  for (int offset = 16; offset; offset >>= 1) value = combine(value, __shfl_xor_sync(~0u, value, offset));
  return value;
}

__device__ __forceinline__ float block_sum(float value) {
  return block_reduce(value, 0.f, [](float one, float other) { return one + other; });
}

__device__ __forceinline__ float block_max(float value) {
  return block_reduce(value, -3.4e38f, [](float one, float other) { return fmaxf(one, other); });
}
