// Matrix products of Hopper's own (sm_90a), y = x * weight^T, of bfloat16, e4m3 or int8 operands, and with what follows the
// product while the sums are in registers: scales, and SwiGLU, silu(x * gate^T) * (x * up^T). The pass over memory that this
// saves costs energy, and so time on a card at its power limit.
//
// A cluster of two blocks computes two tiles of 128 rows. Their tiles have either their columns or their rows in common, and
// each block reads half of what both need. In a block one warp keeps the bulk copy engine busy, four slices of 128 bytes of
// x's and the weight's rows ahead, and two groups of four warps multiply 64 rows each.
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define CLUSTER __cluster_dims__(2, 1, 1)
#else
#define CLUSTER
#endif

// Of y[rows, width]; a row of x and of the weight has `depth` bytes. With SwiGLU the weight's rows are the gate's and then
// up's.
struct Sizes {
  int rows, width, depth;
};

// What numbers of eight bits stand for: a number times the scale of its row, of x or of the weight. `y` are those of the
// result's rows, where it has eight bits too. In float32; null where there is none.
struct Scales {
  const float *x, *weight, *y;
};

// Formats of operands. Each instruction takes 32 bytes of a row.
struct Bf16 {
  typedef float Sum;
  static constexpr bool SCALED = false;
};
struct E4m3 {
  typedef float Sum;
  static constexpr bool SCALED = true;
};
struct S8 {
  typedef int Sum;
  static constexpr bool SCALED = true;
};

// Bytes of a slice of a row, and slices that are ready or on their way.
constexpr int SLICE = 128, STAGES = 4;
constexpr int ROWS = 128;
// Pairs of rows of tiles whose x stays in the L2 cache, 16 MB of it at 7680 bytes a row, while the columns are gone through.
constexpr int TOGETHER = 8;

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

// multiply(format, s, x, weight, add): s += x (64 x 32 bytes) * weight^T (32 bytes of each of 2 * COUNT rows), or = where `add`
// is zero.
#define REGISTERS_96 \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15" \
  ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31" \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47" \
  ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63" \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79" \
  ", %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define REGISTERS_128 REGISTERS_96 \
  ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111" \
  ", %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define OPERANDS_96 "%96", "%97", "%98"
#define OPERANDS_128 "%128", "%129", "%130"
#define FOUR(c, i) c(s[i]), c(s[i + 1]), c(s[i + 2]), c(s[i + 3])
#define SIXTEEN(c, i) FOUR(c, i), FOUR(c, i + 4), FOUR(c, i + 8), FOUR(c, i + 12)
#define SUMS_96(c) SIXTEEN(c, 0), SIXTEEN(c, 16), SIXTEEN(c, 32), SIXTEEN(c, 48), SIXTEEN(c, 64), SIXTEEN(c, 80)
#define SUMS_128(c) SUMS_96(c), SIXTEEN(c, 96), SIXTEEN(c, 112)
#define INSTRUCTION(shape, registers, x, weight, add, signs) \
  "{\n.reg .pred add;\nsetp.ne.b32 add, " add ", 0;\n" \
  "wgmma.mma_async.sync.aligned." shape " {" registers "}, " x ", " weight ", add" signs ";\n}"
#define WITH(...) INSTRUCTION(__VA_ARGS__)
#define MULTIPLY(FORMAT, COUNT, constraint, shape, signs) \
  __device__ __forceinline__ void multiply(FORMAT, FORMAT::Sum (&s)[COUNT], u64 x, u64 weight, int add) { \
    asm volatile(WITH(shape, REGISTERS_##COUNT, OPERANDS_##COUNT, signs) \
                 : SUMS_##COUNT(constraint) \
                 : "l"(x), "l"(weight), "r"(add)); \
  }
MULTIPLY(Bf16, 96, "+f", "m64n192k16.f32.bf16.bf16", ", 1, 1, 0, 0")
MULTIPLY(Bf16, 128, "+f", "m64n256k16.f32.bf16.bf16", ", 1, 1, 0, 0")
MULTIPLY(E4m3, 96, "+f", "m64n192k32.f32.e4m3.e4m3", ", 1, 1")
MULTIPLY(E4m3, 128, "+f", "m64n256k32.f32.e4m3.e4m3", ", 1, 1")
MULTIPLY(S8, 96, "+r", "m64n192k32.s32.s8.s8", "")
MULTIPLY(S8, 128, "+r", "m64n256k32.s32.s8.s8", "")

// y = silu(x), with one reciprocal for four: the unit that makes them is what the end of a tile waits for. Below -20, where
// silu is as good as zero, the product of four would leave single precision.
__device__ __forceinline__ void four_silus(float (&y)[4], const float (&x)[4]) {
  float over[4];
#pragma unroll
  for (int j = 0; j < 4; j++) over[j] = 1.f + __expf(fminf(-x[j], 20.f));
  const float first = over[0] * over[1], second = over[2] * over[3], both = 1.f / (first * second);
  const float of_first = both * second, of_second = both * first;
  y[0] = x[0] * (of_first * over[1]);
  y[1] = x[1] * (of_first * over[0]);
  y[2] = x[2] * (of_second * over[3]);
  y[3] = x[3] * (of_second * over[2]);
}

// The stages in turn; the parity of a barrier's phases changes with each round.
struct Stage {
  int number;
  u32 parity;

  __device__ void next() {
    number = (number + 1) % STAGES;
    parity ^= number == 0;
  }
};

// A thread's part of a group's 64 rows: of every eight columns two neighbours in one row and two in the row eight below.
struct Part {
  int thread;

  __device__ int row() const { return thread / 32 * 16 + thread % 32 / 4; }
  __device__ int column() const { return thread % 4 * 2; }
};

// Results of 64 rows in shared memory, as boxes of 128 bytes a row.
struct ToBf16 {
  static constexpr int BYTES = 2;

  // Of the eight columns number `i`: two in the upper row and two in the lower one.
  static __device__ void write(u32 result, const Part &part, int i, const float (&y)[4], float2) {
    write_eight(result, part.thread, i, pack(y[0], y[1]), pack(y[2], y[3]));
  }
};
struct ToE4m3 {
  static constexpr int BYTES = 1;

  static __device__ void write(u32 result, const Part &part, int i, const float (&y)[4], float2 inverse) {
    const int row = part.row();
    const u32 to = result + row * 128 + ((i / 2) ^ (row % 8)) * 16 + i % 2 * 8 + part.column();
    store_pair(to, pack_e4m3(y[0] * inverse.x, y[1] * inverse.x));
    store_pair(to + 8 * 128, pack_e4m3(y[2] * inverse.y, y[3] * inverse.y));
  }

  static __device__ __forceinline__ void store_pair(u32 to, u16 pair) {
    asm volatile("st.shared.b16 [%0], %1;" ::"r"(to), "h"(pair) : "memory");
  }
};

// What becomes of the sums of a tile: SUMS a row.
struct Plain {
  // Columns of y.
  static constexpr int SUMS = 192, COLUMNS = 192;
};
struct SwiGlu {
  static constexpr int SUMS = 256, COLUMNS = 128;
};

template <class Format, class End, class Result>
struct Product {
  typedef typename Format::Sum Sum;
  static constexpr int SUMS = End::SUMS, COLUMNS = End::COLUMNS;
  static constexpr int X_BYTES = ROWS * SLICE, WEIGHT_BYTES = SUMS * SLICE, STAGE_BYTES = X_BYTES + WEIGHT_BYTES;
  // A group's result.
  static constexpr int RESULT_BYTES = COLUMNS * Result::BYTES / 128 * BOX_BYTES;
  // Columns of a box of the result.
  static constexpr int BOX = 128 / Result::BYTES;

  // Places in shared memory: stages, results, and two barriers a stage.
  u32 stages, results, full, empty;

  // The memory is the block's, and begins at a multiple of 1024 bytes.
  __device__ Product() {
    extern __shared__ u8 memory[];
    stages = (shared_address(memory) + 1023) & ~1023u;
    results = stages + STAGES * STAGE_BYTES;
    full = results + 2 * RESULT_BYTES;
    empty = full + STAGES * 8;
    if (threadIdx.x == 0) {
      for (int stage = 0; stage < STAGES; stage++) {
        barrier_init(full + 8 * stage, 1);
        // The eight multiplying warps of both blocks.
        barrier_init(empty + 8 * stage, 16);
      }
      barriers_are_ready();
    }
    cluster_sync();
  }

  static __device__ int tile_rows(const Sizes &sizes) { return (sizes.rows + ROWS - 1) / ROWS; }
  static __device__ int tile_columns(const Sizes &sizes) { return (sizes.width + COLUMNS - 1) / COLUMNS; }
  static __device__ int slices(const Sizes &sizes) { return (sizes.depth + SLICE - 1) / SLICE; }
  static __device__ int items(const Sizes &sizes) {
    const int rows = tile_rows(sizes), columns = tile_columns(sizes);
    return rows / 2 * columns + rows % 2 * ((columns + 1) / 2);
  }

  // The tile of a block: item after item, the cluster's blocks take two rows of tiles in the same column, and two columns
  // where a last row of tiles has no partner.
  struct Tile {
    int row, column;
    bool same_columns;

    __device__ Tile(int item, u32 rank, const Sizes &sizes) {
      const int rows = tile_rows(sizes), columns = tile_columns(sizes), pairs = rows / 2, paired = pairs * columns;
      same_columns = item < paired;
      if (same_columns) {
        const int first = item / (TOGETHER * columns) * TOGETHER;
        const int count = min(TOGETHER, pairs - first), within = item - first * columns;
        row = ROWS * (2 * (first + within % count) + rank);
        column = COLUMNS * (within / count);
      } else {
        row = ROWS * (rows - 1);
        column = COLUMNS * ((item - paired) * 2 + rank);
      }
    }
  };

  __device__ void read_tiles(const TensorMap *x, const TensorMap *weight, const Sizes &sizes) const {
    const u32 rank = rank_in_cluster();
    const int in_all = items(sizes), in_depth = slices(sizes);
    // From the first half of the weight's rows of a tile to the second.
    const int apart = COLUMNS == SUMS ? SUMS / 2 : sizes.width;
    // Numbers of a slice.
    constexpr int NUMBERS = Format::SCALED ? SLICE : SLICE / 2;
    // Stages are empty before anybody says so.
    Stage stage = {0, 1};
    for (int item = blockIdx.x / 2; item < in_all; item += gridDim.x / 2) {
      const Tile tile(item, rank, sizes);
      for (int slice = 0; slice < in_depth; slice++, stage.next()) {
        const u32 ready = full + 8 * stage.number, to_x = stages + stage.number * STAGE_BYTES;
        const u32 to_first = to_x + X_BYTES, to_second = to_first + WEIGHT_BYTES / 2;
        const int column = slice * NUMBERS;
        barrier_wait(empty + 8 * stage.number, stage.parity);
        barrier_expect(ready, STAGE_BYTES);
        if (tile.same_columns) {
          load(to_x, x, column, tile.row, ready);
          load(to_x + X_BYTES / 2, x, column, tile.row + ROWS / 2, ready);
          load_to_both(rank ? to_second : to_first, weight, column, tile.column + (rank ? apart : 0), ready);
        } else {
          load_to_both(to_x + rank * (X_BYTES / 2), x, column, tile.row + rank * (ROWS / 2), ready);
          load(to_first, weight, column, tile.column, ready);
          load(to_second, weight, column, tile.column + apart, ready);
        }
      }
    }
  }

  // A group of four warps, which computes 64 rows of each tile.
  struct Group {
    int number;
    Part part;
    u32 result;

    __device__ void sync() const { asm volatile("bar.sync %0, 128;" ::"r"(number + 1) : "memory"); }

    // The two scales of a thread's rows: what is behind the last row is not stored.
    static __device__ float2 of_rows(const float *scales, int row, int rows) {
      if (!scales) return make_float2(1.f, 1.f);
      return make_float2(scales[min(row, rows - 1)], scales[min(row + 8, rows - 1)]);
    }

    // The numbers that the sums of eight columns stand for.
    static __device__ __forceinline__ void numbers(float (&y)[4], const Sum *sums, float2 rows, const float *weights) {
      float2 columns = {1.f, 1.f};
      if constexpr (Format::SCALED) columns = *(const float2 *)weights;
#pragma unroll
      for (int j = 0; j < 4; j++) y[j] = sums[j];
      if constexpr (Format::SCALED) {
        y[0] *= rows.x * columns.x, y[1] *= rows.x * columns.y;
        y[2] *= rows.y * columns.x, y[3] *= rows.y * columns.y;
      }
    }

    __device__ void write(const Sum (&sums)[SUMS / 2], const Scales &scales, const Sizes &sizes, const Tile &tile) const {
      const int row = tile.row + number * 64 + part.row();
      const float2 rows = of_rows(Format::SCALED ? scales.x : nullptr, row, sizes.rows);
      float2 inverse = {1.f, 1.f};
      if constexpr (Result::BYTES == 1) {
        inverse = of_rows(scales.y, row, sizes.rows);
        inverse = make_float2(1.f / inverse.x, 1.f / inverse.y);
      }
#pragma unroll
      for (int i = 0; i < COLUMNS / 8; i++) {
        // What is behind the last column is not stored either.
        const float *weights = scales.weight + min(tile.column + 8 * i, sizes.width - 8) + part.column();
        float y[4];
        numbers(y, sums + 4 * i, rows, weights);
        if constexpr (COLUMNS < SUMS) {
          float up[4], activated[4];
          numbers(up, sums + SUMS / 4 + 4 * i, rows, weights + sizes.width);
          four_silus(activated, y);
#pragma unroll
          for (int j = 0; j < 4; j++) y[j] = activated[j] * up[j];
        }
        Result::write(result, part, i, y, inverse);
      }
    }

    // Sends the result of 64 rows to memory, when the one before it was read.
    __device__ void finish(const TensorMap *y, const Sum (&sums)[SUMS / 2], const Scales &scales, const Sizes &sizes,
                           const Tile &tile) const {
      if (part.thread == 0) stores_have_read();
      sync();
      write(sums, scales, sizes, tile);
      before_store();
      sync();
      if (part.thread == 0) {
#pragma unroll
        for (int box = 0; box < COLUMNS / BOX; box++)
          store(y, tile.column + box * BOX, tile.row + number * 64, result + box * BOX_BYTES);
        store_commit();
      }
    }
  };

  __device__ void multiply_tiles(const TensorMap *y, const Scales &scales, const Sizes &sizes, const Group &group) const {
    const u32 rank = rank_in_cluster();
    const int in_all = items(sizes), in_depth = slices(sizes);
    // A warp says to both blocks that a stage may be overwritten.
    const auto release = [&](int stage) {
      if (group.part.thread % 32 < 2) barrier_arrive(empty + 8 * stage, group.part.thread % 32);
    };
    Stage stage = {0, 0};
    Sum sums[SUMS / 2];
    for (int item = blockIdx.x / 2; item < in_all; item += gridDim.x / 2) {
      const Tile tile(item, rank, sizes);
      if (tile.row + group.number * 64 >= sizes.rows) {
        // The last row of tiles may have rows for one group alone.
        for (int slice = 0; slice < in_depth; slice++, stage.next()) {
          barrier_wait(full + 8 * stage.number, stage.parity);
          release(stage.number);
        }
        continue;
      }
      for (int slice = 0; slice < in_depth; slice++, stage.next()) {
        const u32 x = stages + stage.number * STAGE_BYTES + group.number * (X_BYTES / 2);
        const u32 weight = stages + stage.number * STAGE_BYTES + X_BYTES;
        barrier_wait(full + 8 * stage.number, stage.parity);
        multiply_fence();
#pragma unroll
        for (int i = 0; i < SLICE / 32; i++)
          multiply(Format(), sums, descriptor(x + 32 * i), descriptor(weight + 32 * i), slice | i);
        multiply_commit();
        // The slice before this one is done.
        multiply_wait<1>();
        if (slice) release((stage.number + STAGES - 1) % STAGES);
      }
      multiply_wait<0>();
      settle(sums);
      release((stage.number + STAGES - 1) % STAGES);
      group.finish(y, sums, scales, sizes, tile);
    }
    if (group.part.thread == 0) stores_are_done();
  }

  __device__ void compute(const TensorMap &x, const TensorMap &weight, const TensorMap &y, const Scales &scales,
                          const Sizes &sizes) const {
    if (threadIdx.x < 128) {
      give_registers<40>();
      if (threadIdx.x == 0) read_tiles(&x, &weight, sizes);
    } else {
      take_registers<232>();
      // The compiler sees that all lanes of a warp have the same.
      const int number = __shfl_sync(~0u, threadIdx.x / 128, 0) - 1;
      const Group group = {number, {(int)threadIdx.x % 128}, results + number * RESULT_BYTES};
      multiply_tiles(&y, scales, sizes, group);
    }
    // A block that is done may still be written to and waited for by the other.
    __syncwarp();
    cluster_sync();
  }
};

// The product of a kernel, whose barriers are ready, and its work.
#define PREPARE(...) const Product<__VA_ARGS__> product
#define COMPUTE() product.compute(x, weight, y, scales, sizes)
#else
#define PREPARE(...)
#define COMPUTE()
#endif

#define ARGUMENTS \
  const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap weight, const __grid_constant__ TensorMap y, \
      const Scales scales, const Sizes sizes

extern "C" __global__ CLUSTER __launch_bounds__(384, 1) void gate_up_swiglu(ARGUMENTS) {
  PREPARE(Bf16, SwiGlu, ToBf16);
  after_earlier_work();
  COMPUTE();
}

extern "C" __global__ CLUSTER __launch_bounds__(384, 1) void gate_up_swiglu_e4m3(ARGUMENTS) {
  PREPARE(E4m3, SwiGlu, ToBf16);
  after_earlier_work();
  COMPUTE();
}

extern "C" __global__ CLUSTER __launch_bounds__(384, 1) void gate_up_swiglu_e4m3_to_e4m3(ARGUMENTS) {
  PREPARE(E4m3, SwiGlu, ToE4m3);
  after_earlier_work();
  COMPUTE();
}

extern "C" __global__ CLUSTER __launch_bounds__(384, 1) void gate_up_swiglu_s8(ARGUMENTS) {
  PREPARE(S8, SwiGlu, ToBf16);
  after_earlier_work();
  COMPUTE();
}

extern "C" __global__ CLUSTER __launch_bounds__(384, 1) void product_bf16(ARGUMENTS) {
  PREPARE(Bf16, Plain, ToBf16);
  after_earlier_work();
  COMPUTE();
}

extern "C" __global__ CLUSTER __launch_bounds__(384, 1) void product_e4m3(ARGUMENTS) {
  PREPARE(E4m3, Plain, ToBf16);
  after_earlier_work();
  COMPUTE();
}

extern "C" __global__ CLUSTER __launch_bounds__(384, 1) void product_s8(ARGUMENTS) {
  PREPARE(S8, Plain, ToBf16);
  after_earlier_work();
  COMPUTE();
}
