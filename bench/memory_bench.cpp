// Zero-page detection and dirty bitmaps, at the size of a 64 GiB guest.
#include <benchmark/benchmark.h>

#include <random>
#include <vector>

#include "handover/base/mapping.h"
#include "handover/memory/dirty_bitmap.h"
#include "handover/memory/zero_page.h"

namespace {

using namespace handover;

constexpr std::uint64_t kGuestPages = 64 * GiB / kPageSize;

/// The bitmap of a guest of which one page in a hundred is dirty, as little-endian bytes.
std::vector<std::byte> one_percent() {
  std::mt19937_64 random(1);
  std::vector<std::byte> bytes(kGuestPages / 8);
  for (std::uint64_t i = 0; i < kGuestPages / 100; ++i) {
    const std::uint64_t page = random() % kGuestPages;
    bytes[page / 8] |= std::byte{1} << (page % 8);
  }
  return bytes;
}

void zero_page(benchmark::State& state, bool (*is_zero)(const std::byte*)) {
  constexpr std::uint64_t kPages = 16384;  // 64 MiB: more than the caches hold
  const auto memory = Mapping::anonymous(kPages * kPageSize).value();
  // Else all of it would be one page of the host's.
  for (std::uint64_t page = 0; page < kPages; ++page)
    memory.data()[page * kPageSize] = std::byte{0};
  std::uint64_t page = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(is_zero(memory.data() + page * kPageSize));
    page = (page + 1) % kPages;
  }
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(kPageSize));
}

void page_that_is_not_zero(benchmark::State& state) {
  const auto memory = Mapping::anonymous(kPageSize).value();
  memory.data()[3] = std::byte{1};
  for (auto _ : state)
    benchmark::DoNotOptimize(is_zero_page(memory.data()));
}
BENCHMARK(page_that_is_not_zero);

void import_64_gib(benchmark::State& state) {
  const auto bytes = one_percent();
  DirtyBitmap bitmap(kGuestPages);
  const auto page_size = static_cast<std::uint64_t>(state.range(0));
  const std::uint64_t bits = 64 * GiB / page_size;
  for (auto _ : state)
    benchmark::DoNotOptimize(bitmap.import_le(std::span(bytes).first(bits / 8), bits, 0, page_size));
}
BENCHMARK(import_64_gib)->Arg(4 * KiB)->Arg(64 * KiB)->Arg(2 * MiB)->Unit(benchmark::kMillisecond);

void absorb_64_gib(benchmark::State& state) {
  const auto bytes = one_percent();
  DirtyBitmap from(kGuestPages);
  DirtyBitmap to(kGuestPages);
  for (auto _ : state) {
    state.PauseTiming();
    benchmark::DoNotOptimize(from.import_le(bytes, kGuestPages, 0, kPageSize));
    state.ResumeTiming();
    benchmark::DoNotOptimize(to.absorb(from));
  }
}
BENCHMARK(absorb_64_gib)->Unit(benchmark::kMillisecond);

void take_all_runs_64_gib(benchmark::State& state) {
  const auto bytes = one_percent();
  DirtyBitmap bitmap(kGuestPages);
  for (auto _ : state) {
    state.PauseTiming();
    benchmark::DoNotOptimize(bitmap.import_le(bytes, kGuestPages, 0, kPageSize));
    state.ResumeTiming();
    std::uint64_t from = 0;
    while (const auto run = bitmap.take_run(from, 256))
      from = run->first + run->count;
  }
}
BENCHMARK(take_all_runs_64_gib)->Unit(benchmark::kMillisecond);

void count_64_gib(benchmark::State& state) {
  DirtyBitmap bitmap(kGuestPages);
  bitmap.mark_all();
  for (auto _ : state)
    benchmark::DoNotOptimize(bitmap.count());
}
BENCHMARK(count_64_gib)->Unit(benchmark::kMillisecond);

void mark_one_page(benchmark::State& state) {
  DirtyBitmap bitmap(kGuestPages);
  std::uint64_t page = 0;
  for (auto _ : state)
    bitmap.mark(page = (page + 12345) % kGuestPages);
}
BENCHMARK(mark_one_page);

}  // namespace

int main(int argc, char** argv) {
  for (const auto& check : zero_page_checks())
    benchmark::RegisterBenchmark(("zero_page/" + std::string(check.name)).c_str(), zero_page, check.is_zero);
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
}
