// y = silu(x[:, :width]) * x[:, width:], both halves `vectors` * 8 wide.
extern "C" __global__ void swiglu(uint4 *y, const uint4 *x, int vectors) {
  after_earlier_work();
  const int i = blockIdx.y * blockDim.x + threadIdx.x;
  if (i >= vectors) return;
  const u64 row = blockIdx.x;
  float gate[8], up[8];
  unpack8(x[row * 2 * vectors + i], gate);
  unpack8(x[row * 2 * vectors + vectors + i], up);
#pragma unroll
  for (int j = 0; j < 8; j++) gate[j] = silu(gate[j]) * up[j];
  y[row * vectors + i] = pack8(gate);
}
