// Rows that come from tables, and the time.

// y[i] = table[ids[i]], rows of `vectors` * 8; rows from `count` on are zero.
extern "C" __global__ void gather(uint4 *y, const uint4 *table, const u32 *ids, int count, int vectors) {
  after_earlier_work();
  const u64 row = blockIdx.x;
  for (int i = threadIdx.x; i < vectors; i += blockDim.x)
    y[row * vectors + i] = row < count ? table[(u64)ids[row] * vectors + i] : make_uint4(0, 0, 0, 0);
}

// Every row of y is the token.
extern "C" __global__ void repeat_row(uint4 *y, const uint4 *token, int vectors) {
  after_earlier_work();
  for (int i = threadIdx.x; i < vectors; i += blockDim.x) y[(u64)blockIdx.x * vectors + i] = token[i];
}

// y = silu(x) of a float32 vector, rounded.
extern "C" __global__ void silu_f32(u16 *y, const float *x, u64 count) {
  after_earlier_work();
  const u64 i = blockIdx.x * (u64)blockDim.x + threadIdx.x;
  if (i < count) y[i] = to_bf16(silu(x[i]));
}

// The blocks' modulations (blocks, 4, width): 1 + scale, tanh(gate), 1 + scale, tanh(gate), in place.
extern "C" __global__ void modulation(float *x, int width, u64 count) {
  after_earlier_work();
  const u64 i = blockIdx.x * (u64)blockDim.x + threadIdx.x;
  if (i >= count) return;
  x[i] = i / width % 2 ? tanhf(x[i]) : 1.f + x[i];
}

// x += 1
extern "C" __global__ void add_one(float *x, u64 count) {
  after_earlier_work();
  const u64 i = blockIdx.x * (u64)blockDim.x + threadIdx.x;
  if (i < count) x[i] += 1.f;
}
