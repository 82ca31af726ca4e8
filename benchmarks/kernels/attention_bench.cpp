// How long attention takes: decode steps over KV caches that don't fit the processor's caches, and whole
// prompts. 12 heads of 64. Usage: attention_bench [seconds per case]
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <random>
#include <vector>

#include "kernels/attention.h"
#include "system/thread_pool.h"

using namespace gpt2fast;

namespace {

constexpr int64_t kLayers = 12;
constexpr int64_t kHeads = 12;
constexpr int64_t kHeadDim = 64;
constexpr int64_t kWidth = kHeads * kHeadDim;

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

class Bytes {
 public:
  explicit Bytes(size_t size) : size_(size), data_(::operator new(size, std::align_val_t{64})) {}
  Bytes(const Bytes&) = delete;
  Bytes& operator=(const Bytes&) = delete;
  ~Bytes() { ::operator delete(data_, std::align_val_t{64}); }
  char* data() const { return static_cast<char*>(data_); }
  size_t size() const { return size_; }

 private:
  size_t size_;
  void* data_;
};

struct Case {
  int64_t sequences;
  int64_t context;  // positions cached before the step
  int64_t tokens;   // of each sequence in the step
  CacheFormat format;
};

// All layers' caches and one step's inputs.
class Setup {
 public:
  explicit Setup(const Case& item)
      : shape_{1, kHeads, kHeadDim, item.context + item.tokens, item.format},
        cache_(static_cast<size_t>(kLayers * item.sequences * shape_.slot_bytes())),
        qkv_(static_cast<size_t>(item.sequences * item.tokens * 3 * kWidth)),
        y_(static_cast<size_t>(item.sequences * item.tokens * kWidth)) {
    std::mt19937 engine(1);
    std::normal_distribution<float> normal;
    for (float& value : qkv_) value = normal(engine);
    std::vector<float> plain(static_cast<size_t>(shape_.positions * kWidth));
    for (float& value : plain) value = normal(engine);
    for (int64_t slot = 0; slot < kLayers * item.sequences; ++slot) {
      write_slot(shape_, plain.data(), plain.data(), 0, shape_.positions,
                 cache_.data() + slot * shape_.slot_bytes());
    }
    for (int64_t s = 0; s <= item.sequences; ++s) {
      starts_.push_back(static_cast<int32_t>(s * item.tokens));
      slots_.push_back(static_cast<int32_t>(s));
      lengths_.push_back(static_cast<int32_t>(item.context));
    }
  }

  AttentionArguments arguments(int64_t layer) const {
    AttentionArguments arguments;
    arguments.shape = shape_;
    arguments.scale = 0.125f;
    arguments.sequences = static_cast<int64_t>(starts_.size()) - 1;
    arguments.qkv = qkv_.data();
    arguments.sequence_starts = starts_.data();
    arguments.slots = slots_.data();
    arguments.cached_lengths = lengths_.data();
    arguments.cache = cache_.data() + layer * arguments.sequences * shape_.slot_bytes();
    arguments.y = y_.data();
    return arguments;
  }

 private:
  CacheShape shape_;
  Bytes cache_;
  std::vector<float> qkv_;
  mutable std::vector<float> y_;
  std::vector<int32_t> starts_, slots_, lengths_;
};

// Reads a buffer larger than the processor's caches, as model weights do between two steps; returns bytes per
// second.
double evict(const Bytes& large, const Parallel& parallel) {
  static std::atomic<int64_t> sink;
  constexpr int64_t kChunk = 1 << 20;
  const double start = now();
  parallel.run(static_cast<int64_t>(large.size()) / kChunk, [&](int64_t chunk) noexcept {
    int64_t sums[8] = {};
    const int64_t* values = reinterpret_cast<const int64_t*>(large.data() + chunk * kChunk);
    for (int64_t i = 0; i < kChunk / 8; i += 8) {
      for (int64_t j = 0; j < 8; ++j) sums[j] += values[i + j];
    }
    sink += sums[0] + sums[1] + sums[2] + sums[3] + sums[4] + sums[5] + sums[6] + sums[7];
  });
  return static_cast<double>(large.size()) / (now() - start);
}

struct Measurement {
  double least = 0;  // seconds for all layers
  double median = 0;
  double bandwidth = 0;  // of plain reading in the same minutes, bytes per second, the best
};

Measurement measure(const Setup& setup, const Parallel& parallel, const Bytes& large, double seconds) {
  const WorkspaceSize size = attention_workspace(setup.arguments(0), parallel.threads(), kernels());
  const Bytes memory(static_cast<size_t>(size.parts) * size.bytes);
  const WorkspaceParts workspace = {reinterpret_cast<uint8_t*>(memory.data()), size.bytes};
  std::vector<double> times;
  Measurement result;
  const double end = now() + seconds;
  while (times.size() < 5 || now() < end) {
    result.bandwidth = std::max(result.bandwidth, evict(large, parallel));
    const double start = now();
    for (int64_t layer = 0; layer < kLayers; ++layer) {
      cached_attention(setup.arguments(layer), parallel, workspace, kernels());
    }
    times.push_back(now() - start);
  }
  std::sort(times.begin(), times.end());
  result.least = times.front();
  result.median = times[times.size() / 2];
  return result;
}

}  // namespace

int main(int argc, char** argv) {
  const double seconds = argc > 1 ? std::atof(argv[1]) : 0.3;
  std::vector<Case> cases;
  for (CacheFormat format : {CacheFormat::kInt8, CacheFormat::kFloat16, CacheFormat::kFloat32}) {
    for (int64_t sequences : {1, 8, 32}) {
      for (int64_t context : {10, 128, 1000}) {
        if (format != CacheFormat::kFloat32 || sequences < 32) {
          cases.push_back({sequences, context, 1, format});
        }
      }
    }
    for (int64_t tokens : {128, 512, 1024}) cases.push_back({1, 0, tokens, format});
    for (int64_t tokens : {4, 8}) cases.push_back({1, 128, tokens, format});
  }
  const Bytes large(size_t{96} << 20);
  std::fill_n(large.data(), large.size(), 1);

  constexpr const char* kNames[] = {"fp32", "fp16", "int8"};  // by CacheFormat
  std::printf("%d layers; isa %s\n", static_cast<int>(kLayers), isa_name(active_isa()).data());
  std::printf("cache seqs context tokens threads     min us  median us   GB/s  reading GFLOP/s\n");
  for (const Case& item : cases) {
    const Setup setup(item);
    for (int threads : {1, 2}) {
      ThreadPool parallel(threads);
      const StepThreads awake(parallel);
      const Measurement measured = measure(setup, parallel, large, seconds);
      const double positions = static_cast<double>(item.context + item.tokens);
      const double keys = static_cast<double>(kLayers * item.sequences * kWidth);
      const double bytes = keys * positions * 2 *
                           static_cast<double>(CacheShape{1, 1, kHeadDim, 1, item.format}.position_bytes()) /
                           kHeadDim;
      const double pairs =
          static_cast<double>(item.tokens) * (positions - static_cast<double>(item.tokens - 1) / 2);
      std::printf("%5s %4d %7d %6d %7d %10.0f %10.0f %6.1f %8.1f %7.1f\n",
                  kNames[static_cast<int>(item.format)], static_cast<int>(item.sequences),
                  static_cast<int>(item.context), static_cast<int>(item.tokens), threads,
                  measured.least * 1e6, measured.median * 1e6, bytes / measured.least * 1e-9,
                  measured.bandwidth * 1e-9, keys * pairs * 4 / measured.least * 1e-9);
    }
  }
}
