// Between latents (channels, 2 * rows, 2 * columns) float32 and patches (rows * columns, 2 * 2 * channels), the
// channels innermost.

__device__ __forceinline__ u64 latent_index(u64 i, int channels, int rows, int columns) {
  const int channel = i % channels;
  const u64 rest = i / channels;
  const int x = rest % 2, y = rest / 2 % 2;
  const u64 patch = rest / 4;
  const u64 row = patch / columns, column = patch % columns;
  return ((u64)channel * 2 * rows + 2 * row + y) * 2 * columns + 2 * column + x;
}

extern "C" __global__ void patchify(u16 *patches, const float *latents, int channels, int rows, int columns) {
  after_earlier_work();
  const u64 i = blockIdx.x * (u64)blockDim.x + threadIdx.x;
  if (i >= (u64)rows * columns * 4 * channels) return;
  patches[i] = to_bf16(latents[latent_index(i, channels, rows, columns)]);
}

extern "C" __global__ void unpatchify(float *latents, const float *patches, int channels, int rows, int columns) {
  after_earlier_work();
  const u64 i = blockIdx.x * (u64)blockDim.x + threadIdx.x;
  if (i >= (u64)rows * columns * 4 * channels) return;
  latents[latent_index(i, channels, rows, columns)] = patches[i];
}
