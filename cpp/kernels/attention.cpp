// Splits attention over sequences, heads and tiles of queries.
#include "kernels/attention.h"

#include <algorithm>

#include "kernels/kernel_table.h"
#include "kernels/shards.h"

namespace gpt2fast {
namespace {

// Work of less than this, estimated in vector operations, is not worth handing to other threads.
constexpr int64_t kShareCost = 4000;
constexpr int64_t kSharesPerThread = 2;
// Rows of several heads are computed together, so that their blocks are read in the order in which they lie.
// The running state of so many rows fits in the first-level cache.
constexpr int64_t kRowsTogether = 32;

const AttentionKernel& kernel_of(const KernelTable& table, CacheFormat format) {
  return table.attention[static_cast<size_t>(format)];
}

int64_t longest_sequence(const AttentionArguments& arguments) {
  int64_t longest = 0;
  for (int64_t s = 0; s < arguments.sequences; ++s) {
    longest = std::max<int64_t>(longest, arguments.sequence_starts[s + 1] - arguments.sequence_starts[s]);
  }
  return longest;
}

// The scratch memory of one task, in whole cache lines.
size_t scratch_bytes(const AttentionArguments& arguments, const AttentionKernel& kernel) {
  const int64_t rows = std::clamp(longest_sequence(arguments), kRowsTogether, kAttentionTileRows);
  return static_cast<size_t>((kernel.scratch_bytes(rows, arguments.shape.padded_head_dim()) + 63) / 64 * 64);
}

bool some_unwanted(const AttentionArguments& arguments) {
  if (arguments.wanted_begins == nullptr) return false;
  for (int64_t s = 0; s < arguments.sequences; ++s) {
    if (arguments.wanted_begins[s] > arguments.sequence_starts[s] ||
        arguments.wanted_ends[s] < arguments.sequence_starts[s + 1]) {
      return true;
    }
  }
  return false;
}

// The height of a tile of queries. It gives each thread tiles of its own: threads that share a tile's heads
// read each other's rows.
int64_t tile_rows(const AttentionArguments& arguments, const Parallel& parallel) {
  constexpr int64_t kFewRows = 32;    // below this, reading keys and values again costs more,
  constexpr int64_t kFewestRows = 8;  // unless threads would have nothing to do
  const int64_t tokens = arguments.sequence_starts[arguments.sequences],
                longest = longest_sequence(arguments);
  int64_t least = kFewRows;
  while (least > kFewestRows && longest > least &&
         divide_up(tokens, least) * arguments.shape.heads < parallel.threads()) {
    least /= 2;
  }
  return std::clamp(divide_up(tokens, parallel.threads()), least, kAttentionTileRows);
}

enum class Work {
  kAppend,  // of all tokens
  kAttend,  // of all tokens
  kAttendWanted,
};

// The step's work as a list of units in a fixed order: sequences, then tiles of queries, then heads. All
// heads of a tile cost the same, so a range of units is found without visiting each.
class UnitList {
 public:
  UnitList(const AttentionArguments& arguments, Work work, int64_t tile_rows)
      : arguments_(arguments), work_(work), tile_rows_(tile_rows) {
    for_each_tile([this](int64_t, int64_t, int64_t, int64_t cost) {
      units_ += arguments_.shape.heads;
      total_ += cost * arguments_.shape.heads;
    });
  }

  // The number of shares that the list is worth cutting into; at least 1, unless there is nothing to do.
  int64_t shares(int64_t threads) const {
    return std::min({divide_up(total_, kShareCost), kSharesPerThread * threads, units_});
  }

  // Calls visit(sequence, heads, first_row, rows) for the units whose middle lies in the given share of the
  // total cost. Where rows are few, a call takes several neighbouring heads.
  template <typename Visit>
  void visit_share(int64_t share, int64_t shares, const Visit& visit) const {
    const Range costs = part(total_, share, shares);
    int64_t before = 0;
    for_each_tile([&](int64_t sequence, int64_t first_row, int64_t rows, int64_t cost) {
      const int64_t heads = arguments_.shape.heads;
      const auto heads_before = [&](int64_t border) {
        return std::clamp<int64_t>(divide_up(border - before - cost / 2, cost), 0, heads);
      };
      const int64_t first = heads_before(costs.begin), last = heads_before(costs.end);
      const int64_t together = std::max<int64_t>(kRowsTogether / rows, 1);
      for (int64_t head = first; head < last; head += together) {
        visit(sequence, Range{head, std::min(head + together, last)}, first_row, rows);
      }
      before += cost * heads;
    });
  }

 private:
  template <typename Visit>
  void for_each_tile(const Visit& visit) const {
    for (int64_t s = 0; s < arguments_.sequences; ++s) {
      const int64_t start = arguments_.sequence_starts[s];
      const bool all = work_ != Work::kAttendWanted;
      const int64_t begin = all ? 0 : arguments_.wanted_begins[s] - start;
      const int64_t end = (all ? arguments_.sequence_starts[s + 1] : arguments_.wanted_ends[s]) - start;
      for (int64_t row = begin; row < end; row += tile_rows_) {
        const int64_t rows = std::min(end - row, tile_rows_);
        visit(s, row, rows, cost(arguments_.cached_lengths[s] + row, rows));
      }
    }
  }

  // The cost of one head's rows, the first of which is at `position`.
  int64_t cost(int64_t position, int64_t rows) const {
    constexpr int64_t kRowCost = 3 * kLanes;  // fixed cost of a row, in positions
    // Positions that a row sees, on average.
    const int64_t seen = work_ == Work::kAppend ? 0 : position + (rows + 1) / 2;
    return (rows + 2) * (seen + kRowCost) * arguments_.shape.padded_head_dim() / kLanes;
  }

  const AttentionArguments& arguments_;
  Work work_;
  int64_t tile_rows_;
  int64_t units_ = 0;
  int64_t total_ = 0;
};

AttentionTile make_tile(const AttentionArguments& arguments, int64_t sequence, Range heads, int64_t first_row,
                        int64_t rows, void* scratch) {
  const CacheShape& shape = arguments.shape;
  const int64_t width = shape.heads * shape.head_dim;
  const int64_t token = arguments.sequence_starts[sequence] + first_row;
  const int64_t first_element = heads.begin * shape.head_dim;

  AttentionTile tile;
  tile.heads = heads.end - heads.begin;
  tile.rows = rows;
  tile.first_position = arguments.cached_lengths[sequence] + first_row;
  tile.head_dim = shape.head_dim;
  tile.padded_head_dim = shape.padded_head_dim();
  tile.scale = arguments.scale;
  tile.queries = arguments.qkv + token * 3 * width + first_element;
  tile.new_keys = tile.queries + width;
  tile.new_values = tile.new_keys + width;
  tile.qkv_stride = 3 * width;
  tile.keys = static_cast<char*>(arguments.cache) + arguments.slots[sequence] * shape.slot_bytes() +
              heads.begin * shape.head_stride();
  tile.block_bytes = shape.block_bytes();
  tile.block_stride = shape.block_stride();
  tile.y = arguments.y + token * width + first_element;
  tile.y_stride = width;
  tile.scratch = static_cast<char*>(scratch);
  return tile;
}

}  // namespace

WorkspaceSize attention_workspace(const AttentionArguments& arguments, int64_t threads,
                                  const KernelTable& table) {
  const AttentionKernel& kernel = kernel_of(table, arguments.shape.format);
  return {threads, static_cast<size_t>(kSharesPerThread) * scratch_bytes(arguments, kernel)};
}

void cached_attention(const AttentionArguments& arguments, const Parallel& parallel,
                      const WorkspaceParts& workspace, const KernelTable& table) {
  const AttentionKernel& kernel = kernel_of(table, arguments.shape.format);
  const size_t scratch = scratch_bytes(arguments, kernel);
  // A tile reads what earlier tiles of its sequence append, so all appending comes first. With one tile a
  // sequence, each unit appends what it alone reads.
  const bool wanted_only = some_unwanted(arguments);
  const int64_t rows = tile_rows(arguments, parallel);
  const bool append_first = wanted_only || longest_sequence(arguments) > rows;
  const UnitList appended(arguments, Work::kAppend, rows);
  const UnitList attended(arguments, wanted_only ? Work::kAttendWanted : Work::kAttend, rows);
  const auto visit_share = [&](const UnitList& units, int64_t share, int64_t shares, const auto& visit) {
    const int64_t owner = part_of(share, shares, parallel.threads());
    const int64_t own = share - part(shares, owner, parallel.threads()).begin;
    uint8_t* share_scratch = workspace.part(owner) + static_cast<size_t>(own) * scratch;
    units.visit_share(share, shares, [&](int64_t sequence, Range heads, int64_t first_row, int64_t count) {
      visit(make_tile(arguments, sequence, heads, first_row, count, share_scratch));
    });
  };
  const int64_t append_shares = append_first ? appended.shares(parallel.threads()) : 0;
  const int64_t attend_shares = attended.shares(parallel.threads());
  run_phases(
      append_shares, attend_shares, parallel,
      [&](int64_t share) noexcept { visit_share(appended, share, append_shares, kernel.append); },
      [&](int64_t share) noexcept {
        AttentionTile tile;  // computed once the next one is known, which it prefetches
        visit_share(attended, share, attend_shares, [&](const AttentionTile& next) {
          tile.next = next.keys;
          if (tile.rows > 0) kernel.attend(tile);
          tile = next;
          tile.appends = !append_first;
        });
        if (tile.rows > 0) kernel.attend(tile);
      });
}

}  // namespace gpt2fast
