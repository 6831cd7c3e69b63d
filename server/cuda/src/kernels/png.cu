// PNG's image data: rows through the Paeth filter (PNG specification, 9.4), then the symbols of a deflate stream.
//
// Bytes are taken in units of eight. A unit whose bytes all are the byte before it is one symbol, a repetition; of any
// other every byte is a symbol. Each block of threads has a strip of the bytes.

#define SYMBOLS 263
#define REPEAT 262
#define STRIP 65536
#define UNITS (STRIP / 8)

// y (height, 1 + 3 * width): each row's filter, and its bytes less what the pixels to the left, above, and above to the
// left let expect. `row` is 1 + 3 * width.
extern "C" __global__ void png_filter(u8 *y, const u8 *rgb, u64 count, int row) {
  after_earlier_work();
  const u64 i = blockIdx.x * (u64)blockDim.x + threadIdx.x;
  if (i >= count) return;
  const u64 line = i / row;
  const int column = (int)(i % row) - 1, stride = row - 1;
  if (column < 0) {
    y[i] = 4;
    return;
  }
  const u8 *x = rgb + line * stride + column;
  const int left = column >= 3 ? x[-3] : 0, above = line ? x[-stride] : 0;
  const int corner = line && column >= 3 ? x[-stride - 3] : 0;
  const int to_left = abs(above - corner), to_above = abs(left - corner), to_corner = abs(left + above - 2 * corner);
  const int expected = to_left <= to_above && to_left <= to_corner ? left : to_above <= to_corner ? above : corner;
  y[i] = *x - expected;
}

struct Unit {
  u64 bytes;
  int count;
  bool repeats;
};

// The bytes are there up to a multiple of eight; those from `count` on are none.
__device__ __forceinline__ Unit unit_of(const u8 *bytes, u64 unit, u64 count) {
  const u64 start = 8 * unit;
  if (start >= count) return {0, 0, false};
  const u64 all = ((const u64 *)bytes)[unit];
  const int own = count - start < 8 ? (int)(count - start) : 8;
  return {all, own, own == 8 && unit && all == bytes[start - 1] * 0x0101010101010101ull};
}

__device__ __forceinline__ u32 byte_of(Unit unit, int i) { return unit.bytes >> (8 * i) & 255; }

// tallies[strip] = how often it has each symbol, and its bytes' sum and weighted sum modulo 65521.
extern "C" __global__ void png_tally(u32 *tallies, const u8 *bytes, u64 count) {
  after_earlier_work();
  __shared__ u32 counts[SYMBOLS];
  __shared__ u64 sums[2];
  for (int i = threadIdx.x; i < SYMBOLS; i += blockDim.x) counts[i] = 0;
  if (threadIdx.x < 2) sums[threadIdx.x] = 0;
  __syncthreads();
  const u64 first = blockIdx.x * (u64)UNITS, behind = 8 * first + STRIP, end = behind < count ? behind : count;
  u64 sum = 0, weighted = 0;
  for (int i = threadIdx.x; i < UNITS; i += blockDim.x) {
    const Unit unit = unit_of(bytes, first + i, count);
    if (unit.repeats) atomicAdd(&counts[REPEAT], 1);
    for (int k = 0; k < unit.count; k++) {
      const u32 byte = byte_of(unit, k);
      if (!unit.repeats) atomicAdd(&counts[byte], 1);
      sum += byte;
      weighted += (end - 8 * (first + i) - k) * byte;
    }
  }
  atomicAdd(&sums[0], sum);
  atomicAdd(&sums[1], weighted);
  __syncthreads();
  u32 *tally = tallies + (u64)blockIdx.x * (SYMBOLS + 2);
  for (int i = threadIdx.x; i < SYMBOLS; i += blockDim.x) tally[i] = counts[i];
  if (threadIdx.x < 2) tally[SYMBOLS + threadIdx.x] = sums[threadIdx.x] % 65521;
}

// Sets the bits of every symbol in a stream that has zeros there. codes[symbol] = number of bits << 16 and the bits, the
// first one lowest; starts[strip] = the bit of its first symbol. Whole warps, at most 1024 threads.
extern "C" __global__ void png_pack(u32 *stream, const u8 *bytes, u64 count, const u32 *codes, const u64 *starts) {
  after_earlier_work();
  __shared__ u32 table[SYMBOLS], warps[32];
  for (int i = threadIdx.x; i < SYMBOLS; i += blockDim.x) table[i] = codes[i];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  u64 start = starts[blockIdx.x];
  for (int round = 0; round < UNITS; round += blockDim.x) {
    const Unit unit = unit_of(bytes, blockIdx.x * (u64)UNITS + round + threadIdx.x, count);
    const int symbols = unit.repeats ? 1 : unit.count;
    // The table is there, and the sums of the last round were read.
    __syncthreads();
    u32 bits = 0;
    for (int k = 0; k < symbols; k++) bits += table[unit.repeats ? REPEAT : byte_of(unit, k)] >> 16;
    u32 up_to = bits;
    for (int offset = 1; offset < 32; offset <<= 1) {
      const u32 before = __shfl_up_sync(~0u, up_to, offset);
      if (lane >= offset) up_to += before;
    }
    if (lane == 31) warps[warp] = up_to;
    __syncthreads();
    u64 at = start + up_to - bits;
    for (int i = 0; i < blockDim.x >> 5; i++) {
      if (i < warp) at += warps[i];
      start += warps[i];
    }
    u32 *word = stream + (at >> 5);
    int filled = at & 31;
    u64 pending = 0;
    for (int k = 0; k < symbols; k++) {
      const u32 code = table[unit.repeats ? REPEAT : byte_of(unit, k)];
      pending |= (u64)(code & 0xffff) << filled;
      filled += code >> 16;
      if (filled < 32) continue;
      // A word may have bits of several threads.
      atomicOr(word++, (u32)pending);
      pending >>= 32;
      filled -= 32;
    }
    if (pending) atomicOr(word, (u32)pending);
  }
}
