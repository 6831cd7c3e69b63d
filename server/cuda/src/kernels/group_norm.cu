// Group norm over images (pixels, stride) with `channels` channels of `stride`, a multiple of eight; the channels
// behind the last are written as zeros. Three passes, each with a fixed order of additions.

// sums[chunk][group] = (sum, sum of squares) over the chunk's pixels. 256 threads; needs 2 * 256 * 8 floats of shared
// memory. stride <= 2048.
extern "C" __global__ void group_norm_sums(float2 *sums, const uint4 *x, u64 pixels, int channels, int stride,
                                           int groups, u64 chunk) {
  after_earlier_work();
  extern __shared__ float shared[];
  const int vectors = stride / 8, rows = blockDim.x / vectors;
  const int vector = threadIdx.x % vectors, row = threadIdx.x / vectors;
  float sum[8] = {}, squares[8] = {};
  const u64 start = blockIdx.x * chunk;
  const u64 end = start + chunk < pixels ? start + chunk : pixels;
  if (row < rows) {
    for (u64 pixel = start + row; pixel < end; pixel += rows) {
      float values[8];
      unpack8(x[pixel * vectors + vector], values);
#pragma unroll
      for (int i = 0; i < 8; i++) {
        sum[i] += values[i];
        squares[i] += values[i] * values[i];
      }
    }
    for (int i = 0; i < 8; i++) {
      shared[row * stride + vector * 8 + i] = sum[i];
      shared[(rows + row) * stride + vector * 8 + i] = squares[i];
    }
  }
  __syncthreads();
  const int size = channels / groups;
  for (int group = threadIdx.x; group < groups; group += blockDim.x) {
    float2 total = make_float2(0.f, 0.f);
    for (int r = 0; r < rows; r++)
      for (int i = group * size; i < (group + 1) * size; i++) {
        total.x += shared[r * stride + i];
        total.y += shared[(rows + r) * stride + i];
      }
    sums[(u64)blockIdx.x * groups + group] = total;
  }
}

// statistics[group] = (mean, 1 / standard deviation). One warp a group.
extern "C" __global__ void group_norm_statistics(float2 *statistics, const float2 *sums, int chunks, int groups,
                                                 double count, float eps) {
  after_earlier_work();
  const int group = blockIdx.x;
  double sum = 0, squares = 0;
  for (int chunk = threadIdx.x; chunk < chunks; chunk += 32) {
    const float2 part = sums[(u64)chunk * groups + group];
    sum += part.x;
    squares += part.y;
  }
  for (int offset = 16; offset; offset >>= 1) {
    sum += __shfl_xor_sync(~0u, sum, offset);
    squares += __shfl_xor_sync(~0u, squares, offset);
  }
  if (threadIdx.x) return;
  const double mean = sum / count, variance = squares / count - mean * mean;
  statistics[group] = make_float2(mean, rsqrt((variance > 0 ? variance : 0) + eps));
}

// y = (x - mean) / deviation * weight + bias, through silu when asked for; weight and bias are float32 (stride), zero
// behind the last channel.
extern "C" __global__ void group_norm_apply(uint4 *y, const uint4 *x, const float2 *statistics, const float *weight,
                                            const float *bias, u64 count, int channels, int stride, int groups,
                                            int activate) {
  after_earlier_work();
  const u64 at = blockIdx.x * (u64)blockDim.x + threadIdx.x;
  if (at >= count) return;
  const int first = at % (stride / 8) * 8, size = channels / groups;
  float values[8], w[8], b[8];
  unpack8(x[at], values);
  load8(weight + first, w);
  load8(bias + first, b);
#pragma unroll
  for (int i = 0; i < 8; i++) {
    const int group = (first + i) / size;
    const float2 s = statistics[group < groups ? group : groups - 1];
    values[i] = (values[i] - s.x) * s.y * w[i] + b[i];
    if (activate) values[i] = silu(values[i]);
  }
  y[at] = pack8(values);
}
