// linear() for AMX: a tile of up to 16 rows of int8 weights meets a block of a panel in one instruction. The
// rest is AVX-512's, but weights are asked for earlier.
#include <immintrin.h>

#include "kernels/integer_ops_avx512.h"
#include "kernels/linear_table.h"

namespace gpt2fast {

namespace {
struct AmxOps : Avx512Ops {};
}  // namespace

// Of Intel's processors, which have a longer way to memory.
template <>
struct AskAhead<AmxOps> {
  static constexpr int64_t kBytes = 8192;
  static constexpr int kInt4Rows = 2;
  static constexpr int64_t kInt4RowBytes = 3072;
  static constexpr int kInt4RowLocality = 3;
};

namespace {

using V = Vec<Avx512>;

constexpr int64_t kLineBytes = 64;  // of a tile's rows
constexpr int kTileFloats = kLanes * kLanes;
constexpr int64_t kHalfBytes = kBlockValues * kLanes;  // of a panel's block of 64
constexpr int64_t kBlockBytes = kInt8RowBlocks * kHalfBytes;
constexpr int64_t kGroupTiles = 8;  // that meet weights while the first-level cache holds these and the sums
constexpr int64_t kLeastRows = 13;  // fewer are multiplied as fast without tiles

// The tile registers: sums 0 to 3, rows 4, weights 5 and 6. Compilers know nothing of what is in them.
template <int tile>
GPT2FAST_INLINE void load_tile(const void* lines) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(lines), "r"(kLineBytes), "i"(tile) : "memory");
}
template <int tile>
GPT2FAST_INLINE void store_tile(int32_t* lines) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(lines), "r"(kLineBytes), "i"(tile) : "memory");
}
template <int tile>
GPT2FAST_INLINE void clear_tile() {
  asm volatile("tilezero %%tmm%c0" : : "i"(tile));
}
// Rows with a sign times weights without one.
template <int sums, int rows, int weights>
GPT2FAST_INLINE void add_products() {
  asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(sums), "i"(rows), "i"(weights));
}

// Configures the calling thread's tiles for rows in tiles of at most `height`, and lets go of them. A lower
// tile's missing row is read from what lies behind its rows, and its sums are ignored.
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
      configuration.lines[tile] = static_cast<uint8_t>(tile < 5 ? height : kLanes);
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
    return lines + (block * kInt8ScaledBytes + half * kLineBytes) * height;
  }
  GPT2FAST_INLINE const float* scales(int64_t block) const {
    return reinterpret_cast<const float*>(half(block, kInt8RowBlocks));
  }
};

// A tile of rows and some panels, block after block of 128, two at a time. What multiplies a pair of blocks
// does a part of the later stages after each multiplication: the dot products of the pair before are stored,
// and those of the pair before that scaled and added up. Stored or scaled earlier, they would be waited for.
template <int panels>
class Products {
 public:
  // The blocks `block` and, if the panel has more than two halves from there on, the next. weights: of the
  // first block. sums: [panels][16][16].
  GPT2FAST_INLINE void add(const TileRows& rows, int64_t block, int64_t halves,
                           const uint8_t* const (&weights)[panels], float* sums) {
    if (scaled_->height == kLanes && scaled_->blocks == 2) {
      start<true>(rows, block, halves, weights);
    } else {
      start<false>(rows, block, halves, weights);
    }
    Pair* const pair = scaled_;  // by now
    store<0>(*pair);
    pair->height = rows.height;
    pair->blocks = halves > kInt8RowBlocks ? 2 : 1;
    pair->scales[0] = rows.scales(block);
    pair->scales[1] = rows.scales(block + pair->blocks - 1);
    pair->sums = sums;
    pair->earlier = block > 0 ? 0xffff : 0;
    scaled_ = stored_;
    stored_ = pair;
  }

  // The stages that are left.
  GPT2FAST_INLINE void finish() {
    scale_rows<false>(*scaled_, 0, scaled_->height);
    store<1>(*stored_);
    scale_rows<false>(*stored_, 0, stored_->height);
  }

 private:
  struct Pair {
    alignas(64) int32_t dots[2][panels * kTileFloats];
    const float* scales[2] = {};
    float* sums = nullptr;
    int64_t height = 0;
    int blocks = 0;
    __mmask16 earlier = 0;  // none where sums start
  };

  // Halves of blocks. whole: the pair that is scaled has two blocks of 16 rows.
  template <bool whole>
  GPT2FAST_INLINE void start(const TileRows& rows, int64_t block, int64_t halves,
                             const uint8_t* const (&weights)[panels]) {
    const Pair& scaled = *scaled_;
    clear<0>();
    start_half<whole, 0>(rows.half(block, 0), true, weights, scaled);
    start_half<whole, 1>(rows.half(block, 1), halves > 1, weights, scaled);
    store<1>(*stored_);
    clear<1>();
    start_half<whole, 2>(rows.half(block + 1, 0), halves > 2, weights, scaled);
    start_half<whole, 3>(rows.half(block + 1, 1), halves > 3, weights, scaled);
  }

  template <bool whole, int index>
  static GPT2FAST_INLINE void start_half(const uint8_t* lines, bool wanted,
                                         const uint8_t* const (&weights)[panels], const Pair& scaled) {
    constexpr int first = index / 2 * 2;          // of the tiles that this block's sums are in
    constexpr int kRows = kLanes / (4 * panels);  // to scale after each multiplication
    constexpr int row = index * panels * kRows;
    if (wanted) {
      load_tile<4>(lines);
      load_tile<5>(weights[0] + index * kHalfBytes);
      add_products<first, 4, 5>();
    }
    scale<whole, kRows>(scaled, row);
    if constexpr (panels > 1) {
      if (wanted) {
        load_tile<6>(weights[1] + index * kHalfBytes);
        add_products<first + 1, 4, 6>();
      }
      scale<whole, kRows>(scaled, row + kRows);
    }
  }

  template <int which>
  static GPT2FAST_INLINE void clear() {
    clear_tile<2 * which>();
    if constexpr (panels > 1) clear_tile<2 * which + 1>();
  }

  template <int which>
  static GPT2FAST_INLINE void store(Pair& pair) {
    store_tile<2 * which>(pair.dots[which]);
    if constexpr (panels > 1) store_tile<2 * which + 1>(pair.dots[which] + kTileFloats);
  }

  template <bool whole, int count>
  static GPT2FAST_INLINE void scale(const Pair& pair, int64_t begin) {
    const int64_t end = begin + count;
    scale_rows<whole>(pair, begin, whole || end < pair.height ? end : pair.height);
  }

  template <bool whole>
  static GPT2FAST_INLINE void scale_rows(const Pair& pair, int64_t begin, int64_t end) {
    // Loaded once: as far as the compiler knows, a stored vector may change them.
    const float* const scales[2] = {pair.scales[0], pair.scales[1]};
    float* const sums = pair.sums;
    const int64_t height = whole ? kLanes : pair.height;
    const bool two = whole || pair.blocks == 2;
    const __mmask16 earlier = pair.earlier;
    _Pragma("GCC unroll 4") for (int64_t r = begin; r < end; ++r) {
      const int64_t at = r * kLanes;
      V sum[panels];
      GPT2FAST_UNROLL for (int p = 0; p < panels; ++p) {
        sum[p] = {_mm512_maskz_load_ps(earlier, sums + p * kTileFloats + at)};
      }
      add_row(pair.dots[0] + at, scales[0] + r, height, sum);
      if (two) add_row(pair.dots[1] + at, scales[1] + r, height, sum);
      GPT2FAST_UNROLL for (int p = 0; p < panels; ++p) sum[p].store(sums + p * kTileFloats + at);
    }
  }

  static GPT2FAST_INLINE void add_row(const int32_t* dots, const float* scale, int64_t height,
                                      V (&sum)[panels]) {
    const __m512i correction = _mm512_set1_epi32(reinterpret_cast<const int32_t*>(scale)[height]);
    const V factor = V::set1(*scale);
    GPT2FAST_UNROLL for (int p = 0; p < panels; ++p) {
      const __m512i dot = _mm512_add_epi32(_mm512_load_si512(dots + p * kTileFloats), correction);
      sum[p] = fma(V{_mm512_cvtepi32_ps(dot)}, factor, sum[p]);
    }
  }

  Pair pairs_[2];
  Pair* stored_ = pairs_;      // all but the last dot products are stored
  Pair* scaled_ = pairs_ + 1;  // the one before
};

// Some tiles of rows and the panels that they meet.
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
    for (int64_t block = 0; block < blocks_; block += 2) add_blocks(panel, block, products);
    products.finish();
    for (int p = 0; p < panels; ++p) write<panels>(panel, p);
  }

 private:
  const uint8_t* values(int64_t panel, int64_t block) const {
    return task_.arguments.weight + panel * task_.panel_bytes + 4 * kLanes + block * kBlockBytes;
  }

  // A pair of blocks and all tiles, which meanwhile ask the second-level cache for the next pair.
  template <int panels>
  GPT2FAST_INLINE void add_blocks(int64_t panel, int64_t block, Products<panels>& products) {
    const int64_t tiles = tiles_.end - tiles_.begin;
    const uint8_t* ahead = block + 2 < blocks_ ? values(panel, block + 2) : values(panel + panels, 0);
    const int64_t step = divide_up(2 * kBlockBytes, tiles * kLineBytes) * kLineBytes;
    const uint8_t* weights[panels];
    GPT2FAST_UNROLL for (int p = 0; p < panels; ++p) weights[p] = values(panel + p, block);
    for (int64_t tile = 0; tile < tiles; ++tile, ahead += step) {
      for (int p = 0; p < panels; ++p) {
        const uint8_t* lines = ahead + p * task_.panel_bytes;
        for (int64_t line = 0; line < step; line += kLineBytes) __builtin_prefetch(lines + line, 0, 2);
      }
      products.add(rows_[tile], block, halves_ - block * kInt8RowBlocks, weights,
                   sums_ + tile * panels * kTileFloats);
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
  alignas(64) float sums_[kGroupTiles * 2 * kTileFloats];
};

void quantize_int8(const LinearTask& task, Range rows, float* scratch, uint8_t* prepared) {
  const bool few = task.arguments.rows < kLeastRows;
  (few ? quantize_rows<AmxOps> : quantize_rows<AmxOps, WholeRows>)(task, rows, scratch, prepared);
}

// Not inline: its sums are many for the stack of those who come with few rows.
__attribute__((noinline)) void multiply_in_tiles(const LinearTask& task, Range tiles, Range panels) {
  const TileRegisters registers(task.tiles.max_height());
  for (int64_t begin = tiles.begin; begin < tiles.end; begin += kGroupTiles) {
    Multiplication group(task, {begin, begin + kGroupTiles < tiles.end ? begin + kGroupTiles : tiles.end});
    int64_t panel = panels.begin;
    for (; panel + 2 <= panels.end; panel += 2) group.run<2>(panel);
    if (panel < panels.end) group.run<1>(panel);
  }
}

void multiply_int8(const LinearTask& task, Range tiles, Range panels) {
  const bool few = task.arguments.rows < kLeastRows;
  (few ? multiply<Int8Tile<AmxOps>> : multiply_in_tiles)(task, tiles, panels);
}

}  // namespace

LinearVariant linear_amx() {
  LinearVariant variant = make_linear_variant<AmxOps>();
  constexpr auto kInt8 = static_cast<int>(WeightFormat::kInt8);
  variant.prepare_rows[kInt8] = quantize_int8;
  variant.multiply[kInt8] = multiply_int8;
  variant.own_rows[kInt8] = 32;  // tiles multiply so fast that weights count for more still
  return variant;
}

}  // namespace gpt2fast
