// Between storage formats.

extern "C" __global__ void f32_to_bf16(u16 *y, const float *x, u64 count) {
  after_earlier_work();
  for (u64 i = blockIdx.x * (u64)blockDim.x + threadIdx.x; i < count; i += (u64)gridDim.x * blockDim.x)
    y[i] = to_bf16(x[i]);
}

extern "C" __global__ void f16_to_bf16(u16 *y, const u16 *x, u64 count) {
  after_earlier_work();
  for (u64 i = blockIdx.x * (u64)blockDim.x + threadIdx.x; i < count; i += (u64)gridDim.x * blockDim.x) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(x[i]));
    y[i] = to_bf16(value);
  }
}
