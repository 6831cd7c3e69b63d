// Steps of the schedule and guidance, in float32.

// latents -= delta * prediction: the model predicts from noise to image, the schedule counts from image to noise.
extern "C" __global__ void euler_step(float *latents, const float *prediction, float delta, u64 count) {
  after_earlier_work();
  const u64 i = blockIdx.x * (u64)blockDim.x + threadIdx.x;
  // Rounded after each operation, as on the CPU.
  if (i < count) latents[i] = __fsub_rn(latents[i], __fmul_rn(delta, prediction[i]));
}

// latents = mask ? latents : sigma * noise + (1 - sigma) * image; the mask is one number for each of `pixels`.
extern "C" __global__ void keep(float *latents, const float *image, const float *noise, const float *mask, float sigma,
                                u64 pixels, u64 count) {
  after_earlier_work();
  const u64 i = blockIdx.x * (u64)blockDim.x + threadIdx.x;
  if (i >= count) return;
  const float m = mask[i % pixels];
  const float kept = __fadd_rn(__fmul_rn(noise[i], sigma), __fmul_rn(image[i], 1.f - sigma));
  latents[i] = __fadd_rn(__fmul_rn(1.f - m, kept), __fmul_rn(m, latents[i]));
}

// positive += scale * (positive - negative), then its norm is clamped to `most` times the norm that it had; 0: not
// clamped. One block, so that the sums have one order.
extern "C" __global__ void guide(float *positive, const float *negative, float scale, float most, u64 count) {
  after_earlier_work();
  __shared__ double sums[2][1024];
  double before = 0, after = 0;
  for (u64 i = threadIdx.x; i < count; i += blockDim.x) {
    const float p = positive[i];
    const float guided = __fadd_rn(p, __fmul_rn(__fsub_rn(p, negative[i]), scale));
    positive[i] = guided;
    before += (double)p * p;
    after += (double)guided * guided;
  }
  if (most <= 0.f) return;
  sums[0][threadIdx.x] = before;
  sums[1][threadIdx.x] = after;
  for (int half = blockDim.x / 2; half; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) {
      sums[0][threadIdx.x] += sums[0][threadIdx.x + half];
      sums[1][threadIdx.x] += sums[1][threadIdx.x + half];
    }
  }
  __syncthreads();
  const double limit = sqrt(sums[0][0]) * most, actual = sqrt(sums[1][0]);
  if (actual <= limit) return;
  const float factor = limit / actual;
  for (u64 i = threadIdx.x; i < count; i += blockDim.x) positive[i] *= factor;
}
