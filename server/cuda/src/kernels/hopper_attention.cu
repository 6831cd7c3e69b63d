// Scaled dot-product attention as one kernel of Hopper's own (sm_90a), over rows of (q heads | k heads | v heads) with
// heads of 128, after FlashAttention-3 (https://arxiv.org/abs/2407.08608): while the tensor cores multiply one block of keys
// with the queries, the softmax of the block before it is computed.
//
// The work is units of 64 queries of a head. A block takes two units at a time, neighbours in the list of all heads' units,
// a group of four warps each. One warp keeps the bulk copy engine busy with a ring of blocks of 128 keys or values. Units of
// one head share what is read; where a pair holds the end of one head and the beginning of the next, each has its own.
// Tiles of 128 queries would leave half a tile unused in every head of 1088 tokens.
constexpr int HEAD = 128, QUERIES = 64, KEYS = 128, SLOTS = 5;
constexpr int QUERY_BYTES = QUERIES * HEAD * 2, SLOT_BYTES = KEYS * HEAD * 2;

struct Sizes {
  int tokens, heads, kv_heads;
  // Of the scores, for powers of two.
  float scale;

  __device__ int units_of_head() const { return (tokens + QUERIES - 1) / QUERIES; }
  __device__ int units() const { return units_of_head() * heads; }
  __device__ int pairs() const { return (units() + 1) / 2; }
  __device__ int blocks() const { return (tokens + KEYS - 1) / KEYS; }
  // The block that is not whole comes first: what is behind the last key is left out once, before the loop.
  __device__ int key_of(int step) const { return KEYS * (step ? step - 1 : blocks() - 1); }
};

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

// Below every score.
#define NEVER __int_as_float(0xff800000)

#define FOUR(a, i) "+f"(a[i]), "+f"(a[i + 1]), "+f"(a[i + 2]), "+f"(a[i + 3])
#define SIXTEEN(a, i) FOUR(a, i), FOUR(a, i + 4), FOUR(a, i + 8), FOUR(a, i + 12)
#define SIXTY_FOUR(a) SIXTEEN(a, 0), SIXTEEN(a, 16), SIXTEEN(a, 32), SIXTEEN(a, 48)
#define REGISTERS                                                       \
  "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}"

// scores = queries (64 x 16) * keys (128 x 16)^T, or += where `add` is not zero.
__device__ __forceinline__ void score(float (&scores)[64], u64 queries, u64 keys, int add) {
  asm volatile(
      "{\n.reg .pred add;\nsetp.ne.b32 add, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 " REGISTERS ", %64, %65, add, 1, 1, 0, 0;\n}"
      : SIXTY_FOUR(scores)
      : "l"(queries), "l"(keys), "r"(add));
}

// sums = weights (64 x 16, in registers) * values (16 x 128), or += where `add` is not zero.
__device__ __forceinline__ void weigh(float (&sums)[64], const u32 *weights, u64 values, int add) {
  asm volatile(
      "{\n.reg .pred add;\nsetp.ne.b32 add, %69, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 " REGISTERS ", {%64, %65, %66, %67}, %68, add, 1, 1, 1;\n}"
      : SIXTY_FOUR(sums)
      : "r"(weights[0]), "r"(weights[1]), "r"(weights[2]), "r"(weights[3]), "l"(values), "r"(add));
}

#undef REGISTERS
#undef SIXTY_FOUR
#undef SIXTEEN
#undef FOUR

// Values are stored by keys: the two halves of a head are a box apart, groups of eight keys 1024 bytes.
__device__ __forceinline__ u64 value_descriptor(u32 address) {
  return (u64)((address & 0x3ffff) >> 4) | ((u64)(KEYS * 128 / 16) << 16) | (64ull << 32) | (1ull << 62);
}

// Shared memory, beginning at a multiple of 1024 bytes: the ring, two buffers for a pair's queries, and barriers.
struct Places {
  u32 ring, queries, full, empty, queries_full, queries_empty;

  __device__ Places(u32 start) {
    ring = start;
    queries = ring + SLOTS * SLOT_BYTES;
    full = queries + 4 * QUERY_BYTES;
    empty = full + SLOTS * 8;
    queries_full = empty + SLOTS * 8;
    queries_empty = queries_full + 2 * 8;
  }
};

// The slots in turn; the parity of a barrier's phases changes with each round.
struct Slot {
  int number;
  u32 parity;

  __device__ void next() {
    number = number == SLOTS - 1 ? 0 : number + 1;
    parity ^= number == 0;
  }
};

// The two buffers for queries in turn.
struct Buffer {
  int number;
  u32 parity;

  __device__ void next() {
    number ^= 1;
    parity ^= number == 0;
  }
};

struct Unit {
  int head, row;

  // The last pair may lack its second unit, and takes its first twice.
  __device__ Unit(int number, const Sizes &sizes) {
    number = min(number, sizes.units() - 1);
    head = number / sizes.units_of_head();
    row = QUERIES * (number % sizes.units_of_head());
  }
};

__device__ __forceinline__ void read_pairs(const Places &places, const TensorMap *queries, const TensorMap *keys,
                                           const Sizes &sizes) {
  // Slots and buffers are empty before anybody says so.
  Slot slot = {0, 1};
  Buffer buffer = {0, 1};
  const int blocks = sizes.blocks(), group = sizes.heads / sizes.kv_heads;
  const auto load_block = [&](int column, int row) {
    const u32 full = places.full + 8 * slot.number, to = places.ring + slot.number * SLOT_BYTES;
    barrier_wait(places.empty + 8 * slot.number, slot.parity);
    barrier_expect(full, SLOT_BYTES);
    load(to, keys, column, row, full);
    load(to + SLOT_BYTES / 2, keys, column + 64, row, full);
    slot.next();
  };
  for (int pair = blockIdx.x; pair < sizes.pairs(); pair += gridDim.x, buffer.next()) {
    const Unit units[2] = {Unit(2 * pair, sizes), Unit(2 * pair + 1, sizes)};
    const int count = units[0].head == units[1].head ? 1 : 2;
    const u32 full = places.queries_full + 8 * buffer.number;
    barrier_wait(places.queries_empty + 8 * buffer.number, buffer.parity);
    barrier_expect(full, 2 * QUERY_BYTES);
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const u32 to = places.queries + (2 * buffer.number + i) * QUERY_BYTES;
      load(to, queries, units[i].head * HEAD, units[i].row, full);
      load(to + QUERY_BYTES / 2, queries, units[i].head * HEAD + 64, units[i].row, full);
    }
    // In the order in which they are used: the scores of a block come before the sums of the block before it.
    for (int step = 0; step <= blocks; step++) {
#pragma unroll
      for (int i = 0; i < 2; i++)
        if (i < count && step < blocks)
          load_block((sizes.heads + units[i].head / group) * HEAD, sizes.key_of(step));
#pragma unroll
      for (int i = 0; i < 2; i++)
        if (i < count && step > 0)
          load_block((sizes.heads + sizes.kv_heads + units[i].head / group) * HEAD, sizes.key_of(step - 1));
    }
  }
}

// A group of four warps, which computes one unit of each pair.
struct Group {
  int number, thread;

  __device__ void sync() const { asm volatile("bar.sync %0, 128;" ::"r"(number + 1) : "memory"); }

  // The groups take turns at the tensor cores: the one computes its softmax while the other's products run.
  __device__ void wait_for_turn() const { asm volatile("bar.sync %0, 256;" ::"r"(number + 3) : "memory"); }

  __device__ void pass_turn() const { asm volatile("bar.arrive %0, 256;" ::"r"(4 - number) : "memory"); }
};

// The largest or the sum of what the four threads have that share a row.
template <class Combine>
__device__ __forceinline__ float across_row(float value, Combine combine) {
  value = combine(value, __shfl_xor_sync(~0u, value, 1));
  return combine(value, __shfl_xor_sync(~0u, value, 2));
}

__device__ __forceinline__ float power_of_two(float x) {
  asm("ex2.approx.ftz.f32 %0, %0;" : "+f"(x));
  return x;
}

// The running softmax of two rows, eight apart. A thread has, of every eight columns, two neighbours in each.
struct Softmax {
  float most[2], total[2];

  // Turns scores into weights that are relative to the largest score yet; `keep` is what that makes of earlier sums.
  __device__ __forceinline__ void run(float (&scores)[64], float (&keep)[2], float scale) {
#pragma unroll
    for (int row = 0; row < 2; row++) {
      float higher = most[row];
#pragma unroll
      for (int i = 2 * row; i < 64; i += 4) higher = fmaxf(higher, fmaxf(scores[i], scores[i + 1]));
      higher = across_row(higher, [](float one, float other) { return fmaxf(one, other); });
      keep[row] = power_of_two((most[row] - higher) * scale);
      most[row] = higher;
      const float shift = higher * scale;
      float sum = 0.f;
#pragma unroll
      for (int i = 2 * row; i < 64; i += 4) {
        scores[i] = power_of_two(fmaf(scores[i], scale, -shift));
        scores[i + 1] = power_of_two(fmaf(scores[i + 1], scale, -shift));
        sum += scores[i] + scores[i + 1];
      }
      total[row] = total[row] * keep[row] + sum;
    }
  }
};

// Where a thread's columns of eight lie: pairs of bfloat16 of two rows, as the tensor cores take them from registers.
__device__ __forceinline__ void pack_weights(u32 (&weights)[32], const float (&scores)[64]) {
#pragma unroll
  for (int i = 0; i < 32; i++) weights[i] = pack(scores[2 * i], scores[2 * i + 1]);
}

__device__ __forceinline__ void attend_pairs(const Places &places, const TensorMap *y, const Sizes &sizes,
                                             const Group &group) {
  Slot slot = {0, 0};
  Buffer buffer = {0, 0};
  const int blocks = sizes.blocks();
  const auto release = [&](int number) {
    if (group.thread % 32 == 0) barrier_arrive(places.empty + 8 * number);
  };
  const auto wait = [&]() {
    barrier_wait(places.full + 8 * slot.number, slot.parity);
    const int number = slot.number;
    slot.next();
    return number;
  };
  if (group.number == 1) group.pass_turn();
  float scores[64], sums[64];
  u32 weights[32];
  for (int pair = blockIdx.x; pair < sizes.pairs(); pair += gridDim.x, buffer.next()) {
    const Unit unit(2 * pair + group.number, sizes), other(2 * pair + 1 - group.number, sizes);
    const bool same = unit.head == other.head;
    // The next slot that is the group's.
    const auto take = [&]() {
      if (!same && group.number == 1) release(wait());
      const int number = wait();
      if (!same && group.number == 0) release(wait());
      return number;
    };
    const u32 queries = places.queries + (2 * buffer.number + group.number) * QUERY_BYTES;
    barrier_wait(places.queries_full + 8 * buffer.number, buffer.parity);
    const auto score_block = [&](int number) {
      const u32 keys = places.ring + number * SLOT_BYTES;
#pragma unroll
      for (int i = 0; i < HEAD / 16; i++)
        score(scores, descriptor(queries + i / 4 * (QUERY_BYTES / 2) + i % 4 * 32),
              descriptor(keys + i / 4 * (SLOT_BYTES / 2) + i % 4 * 32), i);
      multiply_commit();
    };
    const auto weigh_block = [&](int number, int add) {
      const u32 values = places.ring + number * SLOT_BYTES;
#pragma unroll
      for (int i = 0; i < KEYS / 16; i++)
        weigh(sums, weights + 4 * i, value_descriptor(values + i * 16 * 128), add | i);
      multiply_commit();
    };

    int keys = take();
    multiply_fence();
    score_block(keys);
    // The result before this one was read by now, and its buffer may take queries again.
    if (group.thread == 0 && pair != blockIdx.x) {
      stores_have_read();
      barrier_arrive(places.queries_empty + 8 * (buffer.number ^ 1));
    }
    multiply_wait<0>();
    settle(scores);
    release(keys);
    const int left = sizes.tokens - sizes.key_of(0) - group.thread % 4 * 2;
#pragma unroll
    for (int i = 0; i < 64; i++)
      if (i / 4 * 8 + i % 2 >= left) scores[i] = NEVER;
    Softmax softmax = {{NEVER, NEVER}, {0.f, 0.f}};
    float keep[2];
    softmax.run(scores, keep, sizes.scale);
    pack_weights(weights, scores);
    for (int step = 1; step < blocks; step++) {
      keys = take();
      group.wait_for_turn();
      multiply_fence();
      score_block(keys);
      const int values = take();
      weigh_block(values, step - 1);
      group.pass_turn();
      multiply_wait<1>();
      settle(scores);
      release(keys);
      softmax.run(scores, keep, sizes.scale);
      multiply_wait<0>();
      settle(sums);
      release(values);
#pragma unroll
      for (int i = 0; i < 64; i++) sums[i] *= keep[i / 2 % 2];
      pack_weights(weights, scores);
    }
    const int values = take();
    multiply_fence();
    weigh_block(values, blocks - 1);
    multiply_wait<0>();
    settle(sums);
    release(values);

    float inverse[2];
#pragma unroll
    for (int row = 0; row < 2; row++)
      inverse[row] = 1.f / across_row(softmax.total[row], [](float one, float other) { return one + other; });
    // The result takes the place of the queries, which all warps have read.
    group.sync();
#pragma unroll
    for (int i = 0; i < 16; i++) {
      const u32 upper = pack(sums[4 * i] * inverse[0], sums[4 * i + 1] * inverse[0]);
      const u32 lower = pack(sums[4 * i + 2] * inverse[1], sums[4 * i + 3] * inverse[1]);
      write_eight(queries, group.thread, i, upper, lower);
    }
    before_store();
    group.sync();
    if (group.thread == 0) {
      store(y, unit.head * HEAD, unit.row, queries);
      store(y, unit.head * HEAD + 64, unit.row, queries + QUERY_BYTES / 2);
      store_commit();
    }
  }
  if (group.thread == 0) stores_are_done();
}

#endif

extern "C" __global__ __launch_bounds__(384, 1) void attention_of_pairs(const __grid_constant__ TensorMap queries,
                                                                        const __grid_constant__ TensorMap keys,
                                                                        const __grid_constant__ TensorMap y,
                                                                        const Sizes sizes) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ u8 memory[];
  const Places places((shared_address(memory) + 1023) & ~1023u);
  if (threadIdx.x == 0) {
    for (int slot = 0; slot < SLOTS; slot++) {
      barrier_init(places.full + 8 * slot, 1);
      // The eight multiplying warps.
      barrier_init(places.empty + 8 * slot, 8);
    }
    for (int buffer = 0; buffer < 2; buffer++) {
      barrier_init(places.queries_full + 8 * buffer, 1);
      barrier_init(places.queries_empty + 8 * buffer, 2);
    }
    barriers_are_ready();
  }
  __syncthreads();
  after_earlier_work();
  if (threadIdx.x < 128) {
    give_registers<24>();
    if (threadIdx.x == 0) read_pairs(places, &queries, &keys, sizes);
  } else {
    take_registers<240>();
    // The compiler sees that all lanes of a warp have the same.
    const int number = __shfl_sync(~0u, threadIdx.x / 128, 0) - 1;
    attend_pairs(places, &y, sizes, {number, (int)threadIdx.x % 128});
  }
#endif
}
