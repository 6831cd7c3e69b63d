// The first half of the feed-forward layers as one kernel of Hopper's own (sm_90a): y = silu(x * gate^T) * (x * up^T). The
// sums become the result while they are in registers. The pass over memory that this saves costs energy, and so time on a
// card at its power limit.
//
// A cluster of two blocks computes two tiles of 128 rows and 256 sums a row, 128 of the gate and the 128 of up that they
// meet. Their tiles have either their columns or their rows in common, and each block reads half of what both need. In a
// block one warp keeps the bulk copy engine busy, four slices of 64 columns of x and the weight ahead, and two groups of
// four warps multiply 64 rows each.
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define CLUSTER __cluster_dims__(2, 1, 1)
#else
#define CLUSTER
#endif

constexpr int ROWS = 128, COLUMNS = 128, DEPTH = 64, STAGES = 4;
// Pairs of rows of tiles whose x stays in the L2 cache, 16 MB of it at a depth of 3840, while the columns are gone through.
constexpr int TOGETHER = 8;
constexpr int X_BYTES = ROWS * DEPTH * 2, WEIGHT_BYTES = 2 * COLUMNS * DEPTH * 2, STAGE_BYTES = X_BYTES + WEIGHT_BYTES;
// A group's result is 64 rows, as two boxes of 64 columns.
constexpr int RESULT_BYTES = 2 * BOX_BYTES;

// Of y[rows, width]; x has `depth` columns, as has the weight, whose rows are the gate's and then up's.
struct Sizes {
  int rows, width, depth;

  __device__ int tile_rows() const { return (rows + ROWS - 1) / ROWS; }
  __device__ int tile_columns() const { return (width + COLUMNS - 1) / COLUMNS; }
  __device__ int slices() const { return (depth + DEPTH - 1) / DEPTH; }
};

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

// sums += x (64 x 16) * weight (256 x 16)^T, or = where `add` is zero.
__device__ __forceinline__ void multiply(float (&s)[128], u64 x, u64 weight, int add) {
#define FOUR(i) "+f"(s[i]), "+f"(s[i + 1]), "+f"(s[i + 2]), "+f"(s[i + 3])
#define SIXTEEN(i) FOUR(i), FOUR(i + 4), FOUR(i + 8), FOUR(i + 12)
  asm volatile(
      "{\n.reg .pred add;\nsetp.ne.b32 add, %130, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
      "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
      "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "
      "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "
      "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127}, "
      "%128, %129, add, 1, 1, 0, 0;\n}"
      : SIXTEEN(0), SIXTEEN(16), SIXTEEN(32), SIXTEEN(48), SIXTEEN(64), SIXTEEN(80), SIXTEEN(96), SIXTEEN(112)
      : "l"(x), "l"(weight), "r"(add));
#undef SIXTEEN
#undef FOUR
}

// y = silu(x), with one reciprocal for four: the unit that makes them is what the end of a tile waits for. Below -20, where
// silu is as good as zero, the product of four would leave single precision.
__device__ __forceinline__ void four_silus(float (&y)[4], const float *x) {
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

// The tile of a block: item after item, the cluster's blocks take two rows of tiles in the same column, and two columns
// where a last row of tiles has no partner.
struct Tile {
  int row, column;
  bool same_columns;

  __device__ Tile(int item, u32 rank, const Sizes &sizes) {
    const int rows = sizes.tile_rows(), pairs = rows / 2, paired = pairs * sizes.tile_columns();
    same_columns = item < paired;
    if (same_columns) {
      const int columns = sizes.tile_columns(), first = item / (TOGETHER * columns) * TOGETHER;
      const int count = min(TOGETHER, pairs - first), within = item - first * columns;
      row = ROWS * (2 * (first + within % count) + rank);
      column = COLUMNS * (within / count);
    } else {
      row = ROWS * (rows - 1);
      column = COLUMNS * ((item - paired) * 2 + rank);
    }
  }

  static __device__ int count(const Sizes &sizes) {
    const int rows = sizes.tile_rows(), columns = sizes.tile_columns();
    return rows / 2 * columns + rows % 2 * ((columns + 1) / 2);
  }
};

// Shared memory, beginning at a multiple of 1024 bytes: stages, results, and two barriers a stage.
struct Places {
  u32 stages, results, full, empty;

  __device__ Places(u32 start) {
    stages = start;
    results = stages + STAGES * STAGE_BYTES;
    full = results + 2 * RESULT_BYTES;
    empty = full + STAGES * 8;
  }
};

// The stages in turn; the parity of a barrier's phases changes with each round.
struct Stage {
  int number;
  u32 parity;

  __device__ void next() {
    number = (number + 1) % STAGES;
    parity ^= number == 0;
  }
};

__device__ __forceinline__ void read_tiles(const Places &places, const TensorMap *x, const TensorMap *weight,
                                           const Sizes &sizes) {
  const u32 rank = rank_in_cluster();
  const int items = Tile::count(sizes);
  // Stages are empty before anybody says so.
  Stage stage = {0, 1};
  for (int item = blockIdx.x / 2; item < items; item += gridDim.x / 2) {
    const Tile tile(item, rank, sizes);
    for (int slice = 0; slice < sizes.slices(); slice++, stage.next()) {
      const u32 full = places.full + 8 * stage.number, to_x = places.stages + stage.number * STAGE_BYTES;
      const u32 to_gate = to_x + X_BYTES, to_up = to_gate + WEIGHT_BYTES / 2;
      const int column = slice * DEPTH;
      barrier_wait(places.empty + 8 * stage.number, stage.parity);
      barrier_expect(full, STAGE_BYTES);
      if (tile.same_columns) {
        load(to_x, x, column, tile.row, full);
        load(to_x + X_BYTES / 2, x, column, tile.row + ROWS / 2, full);
        load_to_both(rank ? to_up : to_gate, weight, column, tile.column + (rank ? sizes.width : 0), full);
      } else {
        load_to_both(to_x + rank * (X_BYTES / 2), x, column, tile.row + rank * (ROWS / 2), full);
        load(to_gate, weight, column, tile.column, full);
        load(to_up, weight, column, tile.column + sizes.width, full);
      }
    }
  }
}

// A group of four warps, which computes 64 rows of each tile.
struct Group {
  int number, thread;
  u32 result;

  __device__ void sync() const { asm volatile("bar.sync %0, 128;" ::"r"(number + 1) : "memory"); }

  // A thread has, of every eight columns, two neighbours in one row and two in the row eight below: `sums[4 * i]` and on are
  // the gate's of eight columns, `sums[64 + 4 * i]` and on those of up.
  __device__ void write(const float (&sums)[128]) const {
#pragma unroll
    for (int i = 0; i < 16; i++) {
      float y[4];
      four_silus(y, sums + 4 * i);
#pragma unroll
      for (int j = 0; j < 4; j++) y[j] *= sums[64 + 4 * i + j];
      write_eight(result, thread, i, pack(y[0], y[1]), pack(y[2], y[3]));
    }
  }

  // Sends the result of 64 rows to memory, when the one before it was read.
  __device__ void finish(const TensorMap *y, const float (&sums)[128], int row, int column) const {
    if (thread == 0) stores_have_read();
    sync();
    write(sums);
    before_store();
    sync();
    if (thread == 0) {
      store(y, column, row, result);
      store(y, column + 64, row, result + BOX_BYTES);
      store_commit();
    }
  }
};

__device__ __forceinline__ void multiply_tiles(const Places &places, const TensorMap *y, const Sizes &sizes,
                                               const Group &group) {
  const u32 rank = rank_in_cluster();
  const int items = Tile::count(sizes), slices = sizes.slices();
  // A warp says to both blocks that a stage may be overwritten.
  const auto release = [&](int stage) {
    if (group.thread % 32 < 2) barrier_arrive(places.empty + 8 * stage, group.thread % 32);
  };
  Stage stage = {0, 0};
  float sums[128];
  for (int item = blockIdx.x / 2; item < items; item += gridDim.x / 2) {
    const Tile tile(item, rank, sizes);
    const int row = tile.row + group.number * 64;
    if (row >= sizes.rows) {
      // The last row of tiles may have rows for one group alone.
      for (int slice = 0; slice < slices; slice++, stage.next()) {
        barrier_wait(places.full + 8 * stage.number, stage.parity);
        release(stage.number);
      }
      continue;
    }
    for (int slice = 0; slice < slices; slice++, stage.next()) {
      const u32 x = places.stages + stage.number * STAGE_BYTES + group.number * (X_BYTES / 2);
      const u32 weight = places.stages + stage.number * STAGE_BYTES + X_BYTES;
      barrier_wait(places.full + 8 * stage.number, stage.parity);
      multiply_fence();
#pragma unroll
      for (int i = 0; i < DEPTH / 16; i++)
        multiply(sums, descriptor(x + 32 * i), descriptor(weight + 32 * i), slice | i);
      multiply_commit();
      // The slice before this one is done.
      multiply_wait<1>();
      if (slice) release((stage.number + STAGES - 1) % STAGES);
    }
    multiply_wait<0>();
    settle(sums);
    release((stage.number + STAGES - 1) % STAGES);
    group.finish(y, sums, row, tile.column);
  }
  if (group.thread == 0) stores_are_done();
}

#endif

extern "C" __global__ CLUSTER __launch_bounds__(384, 1) void gate_up_swiglu(const __grid_constant__ TensorMap x,
                                                                            const __grid_constant__ TensorMap weight,
                                                                            const __grid_constant__ TensorMap y,
                                                                            const Sizes sizes) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ u8 memory[];
  const Places places((shared_address(memory) + 1023) & ~1023u);
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < STAGES; stage++) {
      barrier_init(places.full + 8 * stage, 1);
      // The eight multiplying warps of both blocks.
      barrier_init(places.empty + 8 * stage, 16);
    }
    barriers_are_ready();
  }
  cluster_sync();
  after_earlier_work();
  if (threadIdx.x < 128) {
    give_registers<40>();
    if (threadIdx.x == 0) read_tiles(places, &x, &weight, sizes);
  } else {
    take_registers<232>();
    // The compiler sees that all lanes of a warp have the same.
    const int number = __shfl_sync(~0u, threadIdx.x / 128, 0) - 1;
    const Group group = {number, (int)threadIdx.x % 128, places.results + number * RESULT_BYTES};
    multiply_tiles(places, &y, sizes, group);
  }
  // A block that is done may still be written to and waited for by the other.
  __syncwarp();
  cluster_sync();
#endif
}
