// How evenly a step's work lies on 1 to 64 threads, by counting instead of timing: linear() and
// cached_attention() cut it as ever, and kernels that only count stand in for those that compute. Threads
// take turns as if all were equally fast, so a machine of any size gives the same counts.
//
// A step is one token of each text at position 256; with 128 rows, a prompt of 128 tokens. Usage:
// shares_bench [model, for example 124M]
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <deque>
#include <semaphore>
#include <string_view>
#include <thread>
#include <vector>

#include "kernels/attention.h"
#include "kernels/kernel_table.h"
#include "kernels/linear.h"
#include "kernels/packing.h"
#include "kernels/shards.h"

using namespace gpt2fast;

namespace {

constexpr int64_t kContext = 256;
constexpr int64_t kPromptRows = 128;

// One simulated thread: what it has done in an operator.
struct Worker {
  int64_t work = 0;   // multiplications, or positions that queries have seen; the simulated time
  int64_t bytes = 0;  // of weights read
  bool finished = false;
  std::binary_semaphore turn{0};
};

// The worker whose turn it is.
Worker* current = nullptr;
// Tasks that prepare rows: their values. Whoever comes first does them all, since those who find none left
// would wait for the others without giving up their turn.
std::vector<int64_t> prepared;

// Runs tasks as ThreadPool does: a shard a thread, then help for the others. One thread at a time goes on,
// the one that has worked least.
class SimulatedPool final : public Parallel {
 public:
  explicit SimulatedPool(int threads) : workers_(static_cast<size_t>(threads)) { begin_operator(); }

  int threads() const override { return static_cast<int>(workers_.size()); }
  const std::deque<Worker>& workers() const { return workers_; }
  int64_t runs() const { return runs_; }
  int64_t woken() const { return woken_; }

  void begin_operator() {
    for (Worker& worker : workers_) worker.work = worker.bytes = 0;
    prepared.clear();
    runs_ = woken_ = 0;
    current = &workers_.front();
    running = nullptr;
  }

  // Lets a thread that has worked less go on.
  static void take_turns() {
    if (running != nullptr) running->pass_on(*current);
  }

 protected:
  void run_tasks(int64_t count, TaskFunction function, const void* data) const override {
    if (threads() == 1) {
      for (int64_t i = 0; i < count; ++i) function(data, i);
      return;
    }
    ++runs_;
    shards_ = std::min<int64_t>(count, threads());
    woken_ += shards_ - 1;
    std::vector<int64_t> taken(static_cast<size_t>(shards_), 0);
    const auto run_shard = [&](int64_t shard) {
      const Range range = part(count, shard, shards_);
      int64_t& next = taken[static_cast<size_t>(shard)];
      int64_t ran = 0;
      for (; range.begin + next < range.end; ++ran) function(data, range.begin + next++);
      return ran;
    };
    running = this;
    std::vector<std::thread> threads;
    for (int64_t i = 0; i < shards_; ++i) {
      workers_[static_cast<size_t>(i)].finished = false;
      threads.emplace_back([&, i] {
        Worker& self = workers_[static_cast<size_t>(i)];
        self.turn.acquire();
        const int64_t own = run_shard(i);
        for (int64_t k = 1; (own > 1 || i == 0) && k < shards_; ++k) run_shard((i + k) % shards_);
        self.finished = true;
        pass_on(self);
      });
    }
    current = &workers_.front();
    current->turn.release();
    for (std::thread& thread : threads) thread.join();
    running = nullptr;
    current = &workers_.front();
  }

 private:
  void pass_on(Worker& self) const {
    Worker* next = self.finished ? nullptr : &self;
    for (int64_t i = 0; i < shards_; ++i) {
      Worker& other = workers_[static_cast<size_t>(i)];
      if (!other.finished && (next == nullptr || other.work < next->work)) next = &other;
    }
    if (next == nullptr || next == &self) return;
    current = next;
    next->turn.release();
    if (!self.finished) self.turn.acquire();
  }

  static inline const SimulatedPool* running = nullptr;
  mutable std::deque<Worker> workers_;
  mutable int64_t shards_ = 0;
  mutable int64_t runs_ = 0;
  mutable int64_t woken_ = 0;
};

// The active instruction set's table, with kernels that count.
KernelTable counting_kernels() {
  KernelTable table = kernels();
  for (LinearKernel& kernel : table.linear) {
    kernel.prepare_rows = [](const LinearTask& task, Range rows, float*, uint8_t*) {
      prepared.push_back((rows.end - rows.begin) * task.arguments.in_features);
    };
    kernel.multiply = [](const LinearTask& task, Range tiles, Range panels) {
      const int64_t count = panels.end - panels.begin;
      const int64_t rows = task.tiles.begin(tiles.end) - task.tiles.begin(tiles.begin);
      current->bytes += count * task.panel_bytes;
      current->work += count * kPanelColumns * task.arguments.in_features * rows;
      SimulatedPool::take_turns();
    };
  }
  for (AttentionKernel& kernel : table.attention) {
    kernel.append = [](const AttentionTile&) {};
    kernel.attend = [](const AttentionTile& tile) {
      current->work += tile.heads * tile.rows * (tile.first_position + (tile.rows + 1) / 2);
      SimulatedPool::take_turns();
    };
  }
  return table;
}

// The values that one thread prepares if each task goes to a thread that has least.
int64_t most_prepared(int threads) {
  std::vector<int64_t> loads(static_cast<size_t>(threads), 0);
  for (const int64_t values : prepared) *std::min_element(loads.begin(), loads.end()) += values;
  return *std::max_element(loads.begin(), loads.end());
}

// One kind of operator, or all of a step's.
struct Sums {
  int64_t operators = 0;
  int64_t runs = 0;          // of the pool
  int64_t woken = 0;         // threads beside the caller's, run by run
  double work = 0;           // of all threads
  double longest = 0;        // of the thread that does most, operator by operator
  double prepared_most = 0;  // the same for values of prepared rows
  int64_t idle = 0;          // threads without work, operator by operator
  std::vector<double> bytes;

  void add(const SimulatedPool& pool, int64_t times) {
    bytes.resize(static_cast<size_t>(pool.threads()));
    int64_t most = 0, total = 0, without = 0;
    for (size_t i = 0; i < bytes.size(); ++i) {
      const Worker& worker = pool.workers()[i];
      most = std::max(most, worker.work);
      total += worker.work;
      without += worker.work == 0;
      bytes[i] += static_cast<double>(worker.bytes * times);
    }
    operators += times;
    runs += pool.runs() * times;
    woken += pool.woken() * times;
    idle += without * times;
    work += static_cast<double>(total * times);
    longest += static_cast<double>(most * times);
    prepared_most += static_cast<double>(most_prepared(pool.threads()) * times);
  }

  double imbalance() const { return longest * static_cast<double>(bytes.size()) / work; }
  double mean_idle() const { return static_cast<double>(idle) / static_cast<double>(operators); }
};

struct Model {
  std::string_view name;
  int64_t layers, width, heads, vocabulary;
};

constexpr Model kModels[] = {{"5.9M", 6, 256, 4, 4096},
                             {"124M", 12, 768, 12, 50257},
                             {"355M", 24, 1024, 16, 50257},
                             {"774M", 36, 1280, 20, 50257},
                             {"1.5B", 48, 1600, 25, 50257}};

struct Step {
  const Model& model;
  WeightFormat format;
  int64_t rows;
  const KernelTable& kernels;

  bool is_prompt() const { return rows == kPromptRows; }

  void count_linear(SimulatedPool& pool, WeightFormat weights, int64_t in, int64_t out, int64_t times,
                    Sums& sums) const {
    const std::vector<float> x(static_cast<size_t>(rows * in));
    const bool is_head = out == model.vocabulary;
    const int64_t own_rows = is_head && is_prompt() ? 1 : rows;
    std::vector<float> maxima(is_head ? static_cast<size_t>(own_rows * maxima_floats(out)) : 0);
    LinearArguments a{.rows = own_rows, .in_features = in, .out_features = out, .format = weights};
    a.x = x.data();
    if (is_head) a.maxima = maxima.data();
    const WorkspaceSize size = linear_workspace(a.format, a.rows, in, pool.threads(), kernels);
    std::vector<uint8_t> scratch(static_cast<size_t>(size.parts) * size.bytes);
    pool.begin_operator();
    linear(a, pool, {scratch.data(), size.bytes}, kernels);
    sums.add(pool, times);
  }

  void count_attention(SimulatedPool& pool, Sums& sums) const {
    const int64_t texts = is_prompt() ? 1 : rows;
    const int64_t cached = is_prompt() ? 0 : kContext;
    std::vector<int32_t> starts, slots, lengths;
    for (int64_t i = 0; i <= texts; ++i) starts.push_back(static_cast<int32_t>(i * rows / texts));
    for (int64_t i = 0; i < texts; ++i) slots.push_back(static_cast<int32_t>(i));
    lengths.assign(static_cast<size_t>(texts), static_cast<int32_t>(cached));
    AttentionArguments a{
        .shape = {1, model.heads, model.width / model.heads, kContext + kPromptRows, CacheFormat::kInt8},
        .sequences = texts};
    const std::vector<float> qkv(static_cast<size_t>(rows * 3 * model.width));
    std::vector<float> y(static_cast<size_t>(rows * model.width));
    std::vector<char> cache(static_cast<size_t>(texts * a.shape.slot_bytes()));
    a.qkv = qkv.data(), a.y = y.data(), a.cache = cache.data();
    a.sequence_starts = starts.data(), a.slots = slots.data(), a.cached_lengths = lengths.data();
    const WorkspaceSize size = attention_workspace(a, pool.threads(), kernels);
    std::vector<uint8_t> scratch(static_cast<size_t>(size.parts) * size.bytes);
    pool.begin_operator();
    cached_attention(a, pool, {scratch.data(), size.bytes}, kernels);
    sums.add(pool, model.layers);
  }
};

void print_step(const Step& step, int threads) {
  const Model& model = step.model;
  SimulatedPool pool(threads);
  Sums products, attention;
  const int64_t width = model.width;
  step.count_linear(pool, step.format, width, 3 * width, model.layers, products);
  step.count_linear(pool, step.format, width, width, model.layers, products);
  step.count_linear(pool, step.format, width, 4 * width, model.layers, products);
  step.count_linear(pool, step.format, 4 * width, width, model.layers, products);
  step.count_linear(pool, WeightFormat::kInt8, width, model.vocabulary, 1, products);
  step.count_attention(pool, attention);
  const auto [least, most] = std::minmax_element(products.bytes.begin(), products.bytes.end());
  double total = 0;
  for (const double bytes : products.bytes) total += bytes;
  std::printf("| %s %s | %lld | %d | %lld | %lld | %.0f / %.0f / %.0f | %.2f | %.1f | %.2f | %.1f | %.0f |\n",
              model.name.data(), step.format == WeightFormat::kInt8 ? "int8" : "int4",
              static_cast<long long>(step.rows), threads,
              static_cast<long long>(products.runs + attention.runs),
              static_cast<long long>(products.woken + attention.woken), *least / 1024, total / threads / 1024,
              *most / 1024, products.imbalance(), products.mean_idle(), attention.imbalance(),
              attention.mean_idle(), products.prepared_most / 1000);
}

}  // namespace

int main(int argc, char** argv) {
  const KernelTable kernels = counting_kernels();
  std::printf("%s\n", isa_name(active_isa()).data());
  std::printf(
      "| model | rows | threads | runs | threads woken | KB of weights a thread: least / mean / most | "
      "products: most / mean "
      "|"
      " threads without | attention: most / mean | threads without | thousand values prepared by one |\n"
      "|---|---|---|---|---|---|---|---|---|---|---|\n");
  for (const Model& model : kModels) {
    if (argc > 1 && model.name != argv[1]) continue;
    for (const WeightFormat format : {WeightFormat::kInt8, WeightFormat::kInt4}) {
      for (const int64_t rows : {1, 2, 8, 32, 128}) {
        for (const int threads : {1, 2, 4, 8, 16, 32, 64})
          print_step({model, format, rows, kernels}, threads);
      }
    }
  }
}
