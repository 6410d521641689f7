// What dirty tracking of devices costs: merging what a device says it wrote into what must be sent, taking
// mappings away with and without asking what was written there, and changing the mappings of a guest's IOMMU.
//
//     dirty_tracking [--runs 9] [--iommu-mappings 100000] [--clean-mappings 1000000]

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <filesystem>
#include <memory>
#include <random>
#include <vector>

#include "handover/vfio/iommu_endpoint.h"
#include "handover/vfio_user/client.h"
#include "handover/vfio_user/server.h"

namespace {

using namespace handover;
using vfio::DirtyReport;
using vfio::DmaChange;
using Clock = std::chrono::steady_clock;
using Bytes = std::vector<std::byte>;

constexpr std::uint64_t kGuest = 64 * GiB;
constexpr std::uint64_t kGuestPages = kGuest / kPageSize;
constexpr std::uint64_t kSeed = 1;

struct Options {
  int runs = 9;
  std::uint64_t iommu_mappings = 100000;
  std::uint64_t clean_mappings = 1000000;
};

template <class T>
T must(Result<T> result) {
  if (result) return std::move(*result);
  fmt::print(stderr, "{}\n", result.error().to_string());
  std::exit(1);
}
void must(Status status) {
  if (status) return;
  fmt::print(stderr, "{}\n", status.error().to_string());
  std::exit(1);
}
void must(bool ok, std::string_view what) {
  if (ok) return;
  fmt::print(stderr, "{}\n", what);
  std::exit(1);
}

double microseconds_since(Clock::time_point start) {
  return std::chrono::duration<double, std::micro>(Clock::now() - start).count();
}
double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

// --- Merging ---

void set_bit(Bytes& bits, std::uint64_t page) {
  bits[page / 8] |= std::byte{1} << (page % 8);
}
/// `count` different pages of a guest of kGuest, in no order.
std::vector<std::uint64_t> random_pages(std::uint64_t count) {
  std::mt19937_64 random(kSeed);
  std::vector<bool> taken(kGuestPages);
  std::vector<std::uint64_t> pages;
  while (pages.size() < count) {
    const auto page = random() % kGuestPages;
    if (taken[page]) continue;
    taken[page] = true;
    pages.push_back(page);
  }
  return pages;
}

/// Milliseconds of a merge of `bits` into a clean bitmap; `fresh` of them must turn out to be new.
double merge(const vfio::DmaView& view, std::span<const vfio::IovaRange> ranges, const Bytes& bits,
             std::uint64_t fresh, DirtyMemory& to, int runs) {
  std::vector<double> times;
  for (int run = 0; run < runs; ++run) {
    for (const auto& block : to.memory().blocks())
      to.of(*block).clear();
    std::uint64_t found = 0, at = 0;
    const auto start = Clock::now();
    for (const auto& range : ranges) {
      const auto bytes = range.size / kPageSize / 8;
      found += must(view.mark(
          {.range = range, .page_size = kPageSize, .bits = std::span(bits).subspan(at, bytes)}, to));
      at += bytes;
    }
    times.push_back(microseconds_since(start) / 1000);
    must(found == fresh, fmt::format("{} pages were new, not {}", found, fresh));
  }
  return median(times);
}

void merging(const Options& options) {
  const auto memory = must(GuestMemory::create(kGuest));
  DirtyMemory dirty(*memory);
  const vfio::PhysicalView physical(*memory);
  fmt::print("Merging the bitmap of a 64 GiB guest (4 KiB pages), ms\n");
  fmt::print("  {:<52} {:>9.3f}\n", "physical addresses, nothing set",
             merge(physical, physical.mapped(), Bytes(kGuestPages / 8), 0, dirty, options.runs));
  for (const double percent : {0.01, 0.1, 1.0, 10.0}) {
    const auto pages = random_pages(static_cast<std::uint64_t>(percent / 100 * kGuestPages));
    Bytes bits(kGuestPages / 8);
    for (const auto page : pages)
      set_bit(bits, page);
    const auto time = merge(physical, physical.mapped(), bits, pages.size(), dirty, options.runs);
    fmt::print("  {:<52} {:>9.3f}{}\n", fmt::format("physical addresses, {} % set", percent), time,
               percent == 1 ? "  (goal: below 20)" : "");
  }

  // The same bits through the guest's IOMMU, where each 4 KiB have a mapping of their own.
  vfio::IovaMap map(48);
  const auto pages = random_pages(options.iommu_mappings + options.clean_mappings);
  const auto add = [&](std::uint64_t from, std::uint64_t to) {
    for (auto i = from; i < to; ++i)
      must(map.add({.iova = Iova{pages[i] * kPageSize},
                    .size = kPageSize,
                    .target = Gpa{GuestMemory::kHoleEnd + i * kPageSize},
                    .flags = vfio::kDmaRead | vfio::kDmaWrite}),
           "mappings overlap");
  };
  const vfio::IovaRange all[] = {{Iova{0}, kGuest}};
  const std::uint64_t counts[] = {0, options.iommu_mappings / 100, options.iommu_mappings};
  std::vector<double> few;
  for (const bool crowded : {false, true}) {
    add(crowded ? options.iommu_mappings : 0, crowded ? pages.size() : options.iommu_mappings);
    for (std::size_t i = 0; i < std::size(counts); ++i) {
      Bytes bits(kGuestPages / 8);
      for (std::uint64_t k = 0; k < counts[i]; ++k)
        set_bit(bits, pages[k]);
      const auto time = merge(map, all, bits, counts[i], dirty, options.runs);
      std::string ratio;
      if (crowded)
        ratio = fmt::format("  {:.2f} of that with {} fewer", time / few[i], options.clean_mappings);
      fmt::print("  {:<52} {:>9.3f}{}\n",
                 fmt::format("IOMMU, {} mappings, {} of them written", map.size(), counts[i]), time, ratio);
      few.push_back(time);
    }
  }
}

// --- Over vfio-user ---

/// Does nothing but lend its bus.
class Engine final : public vfio_user::DeviceModel {
 public:
  Engine() {
    spec_.name = "engine";
    spec_.dma_logging = true;
    spec_.regions[vfio::kRegionConfig] = {256, vfio::kRegionRead | vfio::kRegionWrite, -1, 0, {}};
  }
  const vfio_user::DeviceSpec& spec() const override { return spec_; }
  void attach(vfio_user::DeviceBus& bus) override { bus_ = &bus; }
  Status region_read(std::uint32_t, std::uint64_t, std::span<std::byte> to) override {
    std::ranges::fill(to, std::byte{0});
    return {};
  }
  Status region_write(std::uint32_t, std::uint64_t, std::span<const std::byte>) override { return {}; }
  void reset(Completion done) override { done({}); }
  void transition(vfio::DeviceState, vfio::DeviceState, Completion done) override { done({}); }
  Result<std::size_t> migration_read(std::span<std::byte>) override { return 0; }
  Status migration_write(std::span<const std::byte>) override { return {}; }

  void write(Iova at, std::span<const std::byte> bytes) { must(bus_->dma_write(at, bytes)); }

 private:
  vfio_user::DeviceSpec spec_;
  vfio_user::DeviceBus* bus_ = nullptr;
};

constexpr std::uint64_t kRam = 256 * MiB;

/// The engine, served on a thread of its own, and a client of it.
struct Served {
  std::string folder = "/tmp/handover-bench-XXXXXX";
  std::unique_ptr<GuestMemory> memory = must(GuestMemory::create(kRam));
  Engine engine;
  EventLoop loop{"device"};
  std::unique_ptr<vfio_user::Server> server;
  std::unique_ptr<vfio::Device> device;

  Served() {
    must(::mkdtemp(folder.data()) != nullptr, "mkdtemp");
    loop.start_thread();
    vfio_user::ServerOptions options;
    options.socket_path = folder + "/device";
    server = must(vfio_user::Server::create(loop, engine, options));
    device = must(vfio_user::connect({.id = "engine", .socket_path = options.socket_path}, *memory, {}));
  }
  ~Served() {
    device.reset();
    server.reset();
    std::error_code ignored;
    std::filesystem::remove_all(folder, ignored);
  }
};

/// Microseconds for each unmapping of a page-aligned `size` that the device has written, `batch` at a time.
double unmapping(Served& served, std::uint64_t size, std::size_t batch, bool log) {
  constexpr std::size_t kMappings = 96;  // 2 MiB each fit into the RAM
  auto& device = *served.device;
  const auto change_of = [&](DmaChange::Kind kind, std::size_t i) {
    DmaChange change{.kind = kind, .mapping = {}, .result = {}};
    change.mapping.iova = Iova{4 * GiB + i * 16 * MiB};
    change.mapping.size = size;
    change.mapping.fd = served.memory->blocks()[0]->fd();
    change.mapping.offset = i * size;
    return change;
  };
  const vfio::IovaRange all[] = {{Iova{0}, 64 * GiB}};
  if (log) must(device.dma_log()->start(kPageSize, all));
  const Bytes data(size, std::byte{0x5a});
  for (std::size_t i = 0; i < kMappings; ++i) {
    auto map = change_of(DmaChange::Kind::map, i);
    device.dma_change({&map, 1}, nullptr);
    must(std::move(map.result));
    served.engine.write(map.mapping.iova, data);
  }
  std::uint64_t pages = 0;
  const vfio::DirtyReportSink sink = [&](const DirtyReport& report) -> Status {
    for (const auto byte : report.bits)
      pages += static_cast<std::uint64_t>(std::popcount(static_cast<unsigned char>(byte)));
    return {};
  };
  std::vector<DmaChange> changes;
  for (std::size_t i = 0; i < kMappings; ++i)
    changes.push_back(change_of(DmaChange::Kind::unmap, i));
  const auto start = Clock::now();
  for (std::size_t i = 0; i < kMappings; i += batch)
    device.dma_change(std::span(changes).subspan(i, batch), log ? &sink : nullptr);
  const auto time = microseconds_since(start) / kMappings;
  for (auto& change : changes)
    must(std::move(change.result));
  must(pages == (log ? kMappings * size / kPageSize : 0), "not what was written is reported");
  if (log) must(device.dma_log()->stop());
  return time;
}

void unmappings(Served& served, const Options& options) {
  fmt::print("\nUnmapping what the device wrote, over vfio-user, us each (goal: at most 3 times)\n");
  fmt::print("  {:<30} {:>10} {:>14} {:>8}\n", "", "plain", "dirt asked for", "times");
  for (const std::uint64_t size : {4 * KiB, 2 * MiB})
    for (const std::size_t batch : {1, 32}) {
      std::vector<double> off, on;
      unmapping(served, size, batch, true);  // not counted
      for (int run = 0; run < options.runs; ++run) {
        off.push_back(unmapping(served, size, batch, false));
        on.push_back(unmapping(served, size, batch, true));
      }
      fmt::print("  {:<30} {:>10.1f} {:>14.1f} {:>8.2f}\n",
                 fmt::format("{} KiB, {} at once", size / KiB, batch), median(off), median(on),
                 median(on) / median(off));
    }
}

/// Microseconds of the least that can be asked of a server, one after the other.
double round_trip(Served& served) {
  constexpr int kReads = 2000;
  std::byte byte;
  const auto start = Clock::now();
  for (int i = 0; i < kReads; ++i)
    must(served.device->region_read(vfio::kRegionConfig, 0, {&byte, 1}));
  return microseconds_since(start) / kReads;
}

/// Changes a second: a guest's driver that unmaps a page and gives its address to the next one at once.
class Churn {
 public:
  Churn(Served& served, std::uint64_t mappings) : served_(served), mappings_(mappings) {
    endpoint_ = std::make_unique<vfio::IommuEndpoint>(*served.device, *served.memory, map_, *dirt_);
    iommu_.add_endpoint(kEndpoint, *endpoint_);
    must(iommu_.attach(kEndpoint, kDomain));
    std::vector<vfio::IommuRequest> maps;
    for (std::uint64_t slot = 0; slot < mappings_; ++slot)
      maps.push_back(request(vfio::IommuChange::Kind::map, slot));
    ask(maps);
  }
  ~Churn() {
    must(iommu_.detach(kEndpoint));
    iommu_.remove_endpoint(kEndpoint);
  }

  double run(std::size_t batch, bool log) {
    constexpr std::uint64_t kChanges = 16384;
    if (log) {
      must(dirt_->start());
      must(dirt_->choice().kind == vfio::TrackerKind::device, dirt_->choice().reason);
    }
    std::vector<vfio::IommuRequest> requests;
    const auto start = Clock::now();
    for (std::uint64_t change = 0; change < kChanges; ++change) {
      requests.push_back(
          request(change % 2 == 0 ? vfio::IommuChange::Kind::unmap : vfio::IommuChange::Kind::map,
                  change / 2 % mappings_));
      if (requests.size() < batch) continue;
      ask(requests);
      requests.clear();
    }
    const auto time = microseconds_since(start);
    if (log) dirt_->stop();
    return kChanges / time * 1e6;
  }

 private:
  static constexpr std::uint32_t kEndpoint = 8, kDomain = 1;

  vfio::IommuRequest request(vfio::IommuChange::Kind kind, std::uint64_t slot) {
    vfio::IommuRequest request{.kind = kind,
                               .iova = Iova{1 * GiB + slot * kPageSize},
                               .size = kPageSize,
                               .target = {},
                               .flags = vfio::kDmaRead | vfio::kDmaWrite,
                               .result = {}};
    if (kind == vfio::IommuChange::Kind::map)
      request.target = Gpa{random_() % (kRam / kPageSize) * kPageSize};
    return request;
  }
  void ask(std::span<vfio::IommuRequest> requests) {
    iommu_.change(kDomain, requests);
    for (auto& request : requests)
      must(std::move(request.result));
  }

  Served& served_;
  const std::uint64_t mappings_;
  std::mt19937_64 random_{kSeed};
  vfio::IovaMap map_{48};
  vfio::VirtualIommu iommu_{*served_.memory, {}};
  std::unique_ptr<vfio::DmaDirtySource> dirt_ =
      must(vfio::DmaDirtySource::create("the engine", vfio::offers_of(*served_.device), map_, {}));
  std::unique_ptr<vfio::IommuEndpoint> endpoint_;
};

void churning(Served& served, const Options& options) {
  fmt::print("\nChanges of a guest's IOMMU, 4 KiB, addresses used again at once, a second (goal: 50000)\n");
  fmt::print("  {:<30} {:>10} {:>10} {:>8}\n", "", "log off", "log on", "of it");
  const auto measure = [&](std::uint64_t mappings, std::size_t batch) {
    Churn churn(served, mappings);
    std::vector<double> off, on;
    churn.run(batch, true);  // not counted
    for (int run = 0; run < options.runs; ++run) {
      off.push_back(churn.run(batch, false));
      on.push_back(churn.run(batch, true));
    }
    fmt::print("  {:<30} {:>10.0f} {:>10.0f} {:>8.2f}\n",
               fmt::format("{} at once, {} mapped", batch, mappings), median(off), median(on),
               median(on) / median(off));
  };
  for (const std::size_t batch : {1, 8, 32})
    measure(256, batch);
  measure(16384, 32);
  std::vector<double> round_trips;
  for (int run = 0; run < options.runs; ++run)
    round_trips.push_back(round_trip(served));
  fmt::print("  {:<30} {:>10.0f}\n", "(reads of a byte, one at once)", 1e6 / median(round_trips));
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"What dirty tracking of devices costs; medians"};
  Options options;
  app.add_option("--runs", options.runs, "how often each is measured")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--iommu-mappings", options.iommu_mappings, "mappings that may be written")
      ->check(CLI::Range(1000, 4000000))
      ->capture_default_str();
  app.add_option("--clean-mappings", options.clean_mappings, "mappings that are added and not written")
      ->check(CLI::Range(0, 8000000))
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  merging(options);
  Served served;
  unmappings(served, options);
  churning(served, options);
}
