// The decoder's ends and what lies between its resolutions; images are (height, width, stride) in bfloat16.

// y = latents / scaling + shift; latents (channels, pixels) float32, y (pixels, stride) with zeros behind the last.
extern "C" __global__ void latents_to_image(u16 *y, const float *latents, u64 pixels, int channels, int stride,
                                            float scaling, float shift) {
  after_earlier_work();
  const u64 i = blockIdx.x * (u64)blockDim.x + threadIdx.x;
  if (i >= pixels * stride) return;
  const int channel = i % stride;
  y[i] = channel < channels ? to_bf16(latents[channel * pixels + i / stride] / scaling + shift) : 0;
}

// Twice the height and width, each pixel repeated.
extern "C" __global__ void upsample(uint4 *y, const uint4 *x, int width, int vectors, u64 count) {
  after_earlier_work();
  const u64 i = blockIdx.x * (u64)blockDim.x + threadIdx.x;
  if (i >= count) return;
  const int vector = i % vectors;
  const u64 pixel = i / vectors;
  const u64 row = pixel / (2 * width), column = pixel % (2 * width);
  y[i] = x[(row / 2 * width + column / 2) * vectors + vector];
}

// Three bytes a pixel of an image from -1 to 1, rounded to even. `broken` becomes 1 where a value is no number.
extern "C" __global__ void image_to_bytes(u8 *y, u32 *broken, const u16 *x, u64 pixels, int stride) {
  after_earlier_work();
  const u64 i = blockIdx.x * (u64)blockDim.x + threadIdx.x;
  if (i >= pixels * 3) return;
  const float value = to_float(x[i / 3 * stride + i % 3]) * 0.5f + 0.5f;
  if (!(fabsf(value) <= 3.4e38f)) *broken = 1;
  y[i] = (u8)rintf(fminf(fmaxf(value, 0.f), 1.f) * 255.f);
}
