// The kernels for AMX: one instruction multiplies a tile of up to 16 rows by a block of a panel of int8
// weights. The rest is AVX-512's, but weights are prefetched earlier.
#include <immintrin.h>

#include "kernels/integer_ops_avx512.h"
#include "kernels/isa/make_table.h"

namespace gpt2fast {

namespace {
struct AmxOps : Avx512Ops {
  static constexpr int kInt8Rows = 16, kInt8Panels = 1;  // as high as tile registers
};
}  // namespace

// Intel's processors with AMX have a longer latency of memory.
template <>
struct PrefetchDistance<AmxOps> {
  static constexpr int64_t kBytes = 8192;
  static constexpr int kInt4Rows = 2;
  static constexpr int64_t kInt4RowBytes = 3072;
  static constexpr int kInt4RowLocality = 3;
};

namespace {

using V = Vec<Avx512>;

constexpr int64_t kLineBytes = 64;  // a line of a tile register
constexpr int kTileFloats = kLanes * kLanes;
constexpr int64_t kHalfBytes = kBlockValues * kLanes;  // 64 inputs of a panel
constexpr int64_t kBlockBytes = kInt8RowBlocks * kHalfBytes;
constexpr int kMostPanels = 4;      // multiplied by a tile's rows while these are in tile registers
constexpr int64_t kGroupTiles = 4;  // multiplied by a block while the first-level cache holds it and the sums
constexpr int64_t kLeastRows = 13;  // fewer rows are multiplied as fast without AMX

// The tile registers hold sums (0 to 3), rows (4 and 5) and weights (6 and 7). Compilers know nothing of
// this.
template <int tile>
GPT2FAST_INLINE void load_tile(const void* lines) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(lines), "r"(kLineBytes), "i"(tile) : "memory");
}
template <int tile>
GPT2FAST_INLINE void store_tile(int32_t* lines) {  // NOLINT(readability-non-const-parameter): written to
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(lines), "r"(kLineBytes), "i"(tile) : "memory");
}
template <int tile>
GPT2FAST_INLINE void clear_tile() {
  asm volatile("tilezero %%tmm%c0" : : "i"(tile));
}
// Adds the products of signed rows and unsigned weights.
template <int sums, int rows, int weights>
GPT2FAST_INLINE void add_products() {
  asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(sums), "i"(rows), "i"(weights));
}

// Configures the calling thread's tile registers for tiles of at most `height` rows, and releases them. For a
// lower tile's missing row they read what lies behind its rows, and the sums are ignored.
class TileRegisters {
 public:
  explicit TileRegisters(int64_t height) {
    struct {
      uint8_t palette = 1;
      uint8_t start_row = 0;
      uint8_t reserved[14] = {};
      uint16_t line_bytes[16] = {};
      uint8_t lines[16] = {};
    } configuration;
    static_assert(sizeof(configuration) == 64);
    for (int tile = 0; tile < 8; ++tile) {
      configuration.line_bytes[tile] = kLineBytes;
      configuration.lines[tile] = static_cast<uint8_t>(tile < 6 ? height : kLanes);
    }
    asm volatile("ldtilecfg %0" : : "m"(configuration));
  }
  ~TileRegisters() { asm volatile("tilerelease"); }
  TileRegisters(const TileRegisters&) = delete;
  TileRegisters& operator=(const TileRegisters&) = delete;
};

// A tile's rows, see LinearTask.
struct TileRows {
  const uint8_t* lines;
  int64_t height;

  GPT2FAST_INLINE const uint8_t* half(int64_t block, int half) const {
    return lines + (block * int8_scaled_bytes(1) + half * kLineBytes) * height;
  }
  GPT2FAST_INLINE const float* scales(int64_t block) const {
    return reinterpret_cast<const float*>(half(block, kInt8RowBlocks));
  }
};

// A block of some panels, and what is prefetched while a tile of rows is multiplied by it: the next tile's
// rows, into the first-level cache, and a part of the next block, into the second. This happens between the
// multiplications, since the processor would wait if more requests came at once than it can have under way.
template <int panels>
struct PanelsBlock {
  const uint8_t* weights[panels];
  bool both;  // whether both halves of the block exist
  const uint8_t* next_rows;
  const uint8_t* next_weights[panels];
  int64_t next_bytes;  // of next_weights, for each panel

  GPT2FAST_INLINE void prefetch_next(int panel) const {
    constexpr int64_t kRowBytes = kInt8RowBlocks * kLineBytes * kLanes / panels;
    for (int64_t i = 0; i < kRowBytes; i += kLineBytes) __builtin_prefetch(next_rows + panel * kRowBytes + i);
    for (int64_t i = 0; i < next_bytes; i += kLineBytes) __builtin_prefetch(next_weights[panel] + i, 0, 2);
  }
};

// The products of tiles of rows and some panels, block after block of 128 inputs. Between the multiplications
// of one block, the dot products of the block before are stored, and those of the one before that are scaled
// and added up. Any earlier, the processor would wait for them.
template <int panels>
class Products {
 public:
  // Begins a block; `sums` is [panels][16][16].
  GPT2FAST_INLINE void add(const TileRows& rows, int64_t block, const PanelsBlock<panels>& panel_block,
                           float* sums) {  // NOLINT(readability-non-const-parameter): added to later
    if (scaled_->height == kLanes) {
      start<true>(rows, block, panel_block);
    } else {
      start<false>(rows, block, panel_block);
    }
    Block* const begun = scaled_;  // free again
    scaled_ = stored_;
    stored_ = begun;
    begun->height = rows.height;
    begun->scales = rows.scales(block);
    begun->sums = sums;
    begun->earlier = block > 0 ? 0xffff : 0;
  }

  // Finishes the stages that are left.
  GPT2FAST_INLINE void finish() {
    scale_rows<false>(*scaled_, 0, scaled_->height);
    store_from<0>();
    scale_rows<false>(*stored_, 0, stored_->height);
  }

 private:
  struct Block {
    alignas(64) int32_t dots[panels * kTileFloats];
    const float* scales = nullptr;
    float* sums = nullptr;
    int64_t height = 0;
    __mmask16 earlier = 0;  // lanes to add to; none in the first block
  };

  // `whole` says that the block that is scaled has 16 rows.
  template <bool whole>
  GPT2FAST_INLINE void start(const TileRows& rows, int64_t block, const PanelsBlock<panels>& panel_block) {
    load_tile<4>(rows.half(block, 0));
    if (panel_block.both) load_tile<5>(rows.half(block, 1));
    start_from<whole, 0>(panel_block);
  }

  template <bool whole, int panel>
  GPT2FAST_INLINE void start_from(const PanelsBlock<panels>& panel_block) {
    store_tile<panel>(stored_->dots + panel * kTileFloats);
    clear_tile<panel>();
    load_tile<6>(panel_block.weights[panel]);
    add_products<panel, 4, 6>();
    if (panel_block.both) {
      load_tile<7>(panel_block.weights[panel] + kHalfBytes);
      add_products<panel, 5, 7>();
    }
    panel_block.prefetch_next(panel);
    constexpr int64_t kRows = kLanes / panels;  // scaled after each panel
    const int64_t begin = panel * kRows, end = begin + kRows;
    scale_rows<whole>(*scaled_, begin, whole || end < scaled_->height ? end : scaled_->height);
    if constexpr (panel + 1 < panels) start_from<whole, panel + 1>(panel_block);
  }

  template <int panel>
  GPT2FAST_INLINE void store_from() {
    store_tile<panel>(stored_->dots + panel * kTileFloats);
    if constexpr (panel + 1 < panels) store_from<panel + 1>();
  }

  template <bool whole>
  static GPT2FAST_INLINE void scale_rows(const Block& block, int64_t begin, int64_t end) {
    // Read once: as far as the compiler knows, a stored vector may change them.
    const float* const scales = block.scales;
    float* const sums = block.sums;
    const int64_t height = whole ? kLanes : block.height;
    const __mmask16 earlier = block.earlier;
    _Pragma("GCC unroll 4") for (int64_t r = begin; r < end; ++r) {
      const __m512i correction = _mm512_set1_epi32(reinterpret_cast<const int32_t*>(scales + r)[height]);
      const V factor = V::set1(scales[r]);
      GPT2FAST_UNROLL for (int p = 0; p < panels; ++p) {
        const int64_t at = p * kTileFloats + r * kLanes;
        const __m512i dot = _mm512_add_epi32(_mm512_load_si512(block.dots + at), correction);
        const V sum = {_mm512_maskz_load_ps(earlier, sums + at)};
        fma(V{_mm512_cvtepi32_ps(dot)}, factor, sum).store(sums + at);
      }
    }
  }

  Block blocks_[2];
  Block* stored_ = blocks_;      // the block before, whose dot products are stored next
  Block* scaled_ = blocks_ + 1;  // the block before that, which is scaled next
};

// Some tiles of rows times some panels.
class Multiplication {
 public:
  Multiplication(const LinearTask& task, Range tiles) : task_(task), tiles_(tiles) {
    for (int64_t tile = tiles.begin; tile < tiles.end; ++tile) {
      rows_[tile - tiles.begin] = {task.tile_rows(task.tiles.begin(tile)), task.tiles.height(tile)};
    }
    halves_ = divide_up(task.arguments.in_features, kBlockValues);
    blocks_ = divide_up(halves_, kInt8RowBlocks);
  }

  template <int panels>
  void run(int64_t panel) {
    Products<panels> products;
    for (int64_t block = 0; block < blocks_; ++block) add_block(panel, block, products);
    products.finish();
    for (int p = 0; p < panels; ++p) write<panels>(panel, p);
  }

 private:
  const uint8_t* values(int64_t panel, int64_t block) const {
    return task_.arguments.weight + panel * task_.panel_bytes + 4 * kLanes + block * kBlockBytes;
  }

  // Multiplies all tiles by one block of the panels.
  template <int panels>
  GPT2FAST_INLINE void add_block(int64_t panel, int64_t block, Products<panels>& products) {
    const int64_t tiles = tiles_.end - tiles_.begin;
    const int64_t next = block + 1 < blocks_ ? block + 1 : 0;
    PanelsBlock<panels> panel_block;
    GPT2FAST_UNROLL for (int p = 0; p < panels; ++p) {
      panel_block.weights[p] = values(panel + p, block);
      panel_block.next_weights[p] = values(next > 0 ? panel + p : panel + panels + p, next);
    }
    panel_block.both = halves_ - block * kInt8RowBlocks > 1;
    panel_block.next_bytes = divide_up(kBlockBytes, tiles * kLineBytes) * kLineBytes;
    for (int64_t tile = 0; tile < tiles; ++tile) {
      panel_block.next_rows = tile + 1 < tiles ? rows_[tile + 1].half(block, 0) : rows_[0].half(next, 0);
      products.add(rows_[tile], block, panel_block, sums_ + tile * panels * kTileFloats);
      GPT2FAST_UNROLL for (int p = 0; p < panels; ++p) panel_block.next_weights[p] += panel_block.next_bytes;
    }
  }

  template <int panels>
  void write(int64_t panel, int p) {
    const V scale =
        V::load(reinterpret_cast<const float*>(task_.arguments.weight + (panel + p) * task_.panel_bytes));
    for (int64_t tile = tiles_.begin; tile < tiles_.end; ++tile) {
      float* sums = sums_ + ((tile - tiles_.begin) * panels + p) * kTileFloats;
      const int64_t height = rows_[tile - tiles_.begin].height;
      for (int64_t r = 0; r < height; ++r) (V::load(sums + r * kLanes) * scale).store(sums + r * kLanes);
      write_outputs<AmxOps>(task_.arguments, task_.tiles.begin(tile), height, panel + p, sums);
    }
  }

  const LinearTask& task_;
  Range tiles_;
  int64_t halves_, blocks_;
  TileRows rows_[kGroupTiles];
  alignas(64) float sums_[kGroupTiles * kMostPanels * kTileFloats];
};

void quantize_int8(const LinearTask& task, Range rows, float* scratch, uint8_t* prepared) {
  const bool few = task.arguments.rows < kLeastRows;
  (few ? quantize_rows<AmxOps> : quantize_rows<AmxOps, WholeRows>)(task, rows, scratch, prepared);
}

// Multiplies all tiles by these panels, which the second-level cache holds meanwhile. Not inline, so that the
// sums, which are many, are not on the stack of callers with few rows.
template <int panels>
__attribute__((noinline)) void multiply_panels(const LinearTask& task, Range tiles, int64_t panel) {
  for (int64_t begin = tiles.begin; begin < tiles.end; begin += kGroupTiles) {
    Multiplication(task, {begin, begin + kGroupTiles < tiles.end ? begin + kGroupTiles : tiles.end})
        .run<panels>(panel);
  }
}

void multiply_in_tiles(const LinearTask& task, Range tiles, Range panels) {
  const TileRegisters registers(task.tiles.max_height());
  int64_t panel = panels.begin;
  for (; panel + kMostPanels <= panels.end; panel += kMostPanels) {
    multiply_panels<kMostPanels>(task, tiles, panel);
  }
  for (; panel + 2 <= panels.end; panel += 2) multiply_panels<2>(task, tiles, panel);
  if (panel < panels.end) multiply_panels<1>(task, tiles, panel);
}

void multiply_int8(const LinearTask& task, Range tiles, Range panels) {
  const bool few = task.arguments.rows < kLeastRows;
  (few ? multiply<Int8Tile<AmxOps>> : multiply_in_tiles)(task, tiles, panels);
}

}  // namespace

const KernelTable& kernels_amx() {
  static const KernelTable kTable = [] {
    KernelTable table = kernels_avx512();
    set_linear_integers<AmxOps>(table);
    LinearKernel& int8 = table.linear[static_cast<size_t>(WeightFormat::kInt8)];
    int8.prepare_rows = quantize_int8;
    int8.multiply = multiply_int8;
    int8.own_rows = 32;  // tiles multiply so fast that weights count for more still
    return table;
  }();
  return kTable;
}

}  // namespace gpt2fast
