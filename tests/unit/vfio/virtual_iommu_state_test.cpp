#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "handover/base/byte_order.h"
#include "handover/stream/stream_reader.h"
#include "handover/stream/stream_writer.h"
#include "handover/vfio/virtual_iommu.h"
#include "support/memory_channel.h"
#include "unit/memory/random_seed.h"
#include "unit/vfio/recording_iommu_listener.h"

namespace handover::vfio {
namespace {

using test::MemoryChannel;
using test::RecordingIommuListener;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

constexpr std::uint64_t kRam = 256;  // pages
constexpr std::uint32_t kBoth = kDmaRead | kDmaWrite;

std::vector<std::byte> bytes_of(const IommuState& state) {
  MemoryChannel channel;
  StreamWriter out(channel);
  IommuState::description()->save(&state, out);
  EXPECT_TRUE(out.flush());
  return channel.output;
}
Result<IommuState> state_from(std::vector<std::byte> bytes) {
  MemoryChannel channel(std::move(bytes));
  StreamReader in(channel);
  IommuState state;
  HANDOVER_TRY(IommuState::description()->load(&state, in, 1));
  return state;
}

/// One side of a migration: an IOMMU with the endpoints 8, 16 and 24.
struct Side {
  explicit Side(const GuestMemory& memory, std::size_t max_mappings = 2000)
      : iommu(memory, {.max_mappings = max_mappings}) {
    for (std::uint32_t i = 0; i < 3; ++i)
      iommu.add_endpoint(8 * (i + 1), listeners[i]);
  }
  Status load(std::vector<std::byte> bytes) {
    HANDOVER_ASSIGN(const auto state, state_from(std::move(bytes)));
    return iommu.load(state);
  }
  bool empty() const {
    for (const auto& listener : listeners)
      if (!listener.mappings().empty()) return false;
    return iommu.mappings() == 0 && iommu.state().endpoints.empty() && iommu.state().domains.empty();
  }
  void map(std::uint32_t domain, std::uint64_t iova, std::uint64_t target, std::uint64_t pages = 1,
           std::uint32_t flags = kBoth) {
    IommuRequest request{IommuChange::Kind::map,
                         Iova{iova * kPageSize},
                         pages * kPageSize,
                         Gpa{target * kPageSize},
                         flags,
                         {}};
    iommu.change(domain, {&request, 1});
    ASSERT_TRUE(request.result) << request.result.error().to_string();
  }

  VirtualIommu iommu;
  RecordingIommuListener listeners[3];
};

class VirtualIommuState : public testing::Test {
 protected:
  VirtualIommuState() {
    EXPECT_TRUE(source.iommu.attach(8, 1));
    EXPECT_TRUE(source.iommu.attach(16, 1));
    EXPECT_TRUE(source.iommu.attach(24, 0xffffffff));
    for (std::uint64_t i = 0; i < 600; ++i)
      source.map(1, i * 3, i % kRam, 1, static_cast<std::uint32_t>(1 + i % 3));
    source.map(0xffffffff, (std::uint64_t{1} << 36) - 5, 10, 5);
  }
  /// A valid state with one mapping of a domain and one device in it.
  static IommuState small(std::vector<std::uint64_t> words = {0x1000, 0x2000, 0x3000, kBoth}) {
    IommuState state;
    auto& domain = state.domains.emplace_back(IommuState::Domain{.id = 1, .mappings = {}});
    domain.mappings.resize(words.size() * sizeof words[0]);
    for (std::size_t i = 0; i < words.size(); ++i)
      store_be(domain.mappings.data() + i * sizeof words[0], words[i]);
    state.endpoints.push_back({8, 1});
    return counted(std::move(state));
  }
  static IommuState counted(IommuState state) {
    state.domain_count = static_cast<std::uint32_t>(state.domains.size());
    state.endpoint_count = static_cast<std::uint32_t>(state.endpoints.size());
    for (auto& domain : state.domains)
      domain.bytes = static_cast<std::uint32_t>(domain.mappings.size());
    return state;
  }
  /// Why a state is refused, by a side that has something attached and mapped before.
  std::string refusal(const IommuState& state) {
    Side side(*memory);
    EXPECT_TRUE(side.iommu.attach(16, 9));
    side.map(9, 1, 1);
    const auto loaded = side.load(bytes_of(state));
    if (loaded) return "it was accepted";
    EXPECT_TRUE(side.empty()) << loaded.error().to_string();
    EXPECT_TRUE(side.load(bytes_of(small()))) << "what makes sense can be loaded afterwards";
    return loaded.error().to_string();
  }

  std::unique_ptr<GuestMemory> memory = GuestMemory::create(kRam * kPageSize).value();
  Side source{*memory};
};

TEST_F(VirtualIommuState, TheOtherSideHasWhatThisOneHad) {
  Side side(*memory);
  const auto bytes = bytes_of(source.iommu.state());
  ASSERT_TRUE(side.load(bytes));
  EXPECT_EQ(side.iommu.mappings(), 601u);
  for (std::size_t i = 0; i < 3; ++i)
    EXPECT_EQ(side.listeners[i].mappings(), source.listeners[i].mappings());
  EXPECT_EQ(bytes_of(side.iommu.state()), bytes);
}

TEST_F(VirtualIommuState, AnIommuWithNothingAttachedTravelsToo) {
  Side from(*memory), to(*memory);
  ASSERT_TRUE(to.load(bytes_of(from.iommu.state())));
  EXPECT_TRUE(to.empty());
}

TEST_F(VirtualIommuState, WhatIsLoadedTakesThePlaceOfWhatWasThere) {
  Side side(*memory);
  ASSERT_TRUE(side.iommu.attach(24, 1));
  side.map(1, 7, 7);
  ASSERT_TRUE(side.load(bytes_of(small())));
  EXPECT_THAT(side.listeners[0].mappings(),
              ElementsAre(IommuMapping{Iova{0x1000}, 0x2000, Gpa{0x3000}, kBoth}));
  EXPECT_THAT(side.listeners[2].mappings(), IsEmpty());
  EXPECT_EQ(side.iommu.mappings(), 1u);
  ASSERT_TRUE(side.load(bytes_of(source.iommu.state())));
  ASSERT_TRUE(side.load(bytes_of(source.iommu.state()))) << "twice the same";
  EXPECT_EQ(side.iommu.mappings(), 601u);
}

TEST_F(VirtualIommuState, StatesThatMakeNoSenseAreRefusedAndLeaveNothingAttached) {
  EXPECT_THAT(refusal(small()), HasSubstr("accepted"));

  auto odd = small();
  odd.domains[0].mappings.resize(31);
  EXPECT_THAT(refusal(counted(odd)), HasSubstr("31 bytes"));
  odd.domains[0].mappings.resize(33);
  EXPECT_THAT(refusal(counted(odd)), HasSubstr("33 bytes"));
  EXPECT_THAT(refusal(small({0x1000, 0x2000, 0x3000, kBoth, 0x2000, 0x1000, 0x3000, kBoth})),
              HasSubstr("mapped already"));

  constexpr std::uint64_t kEnd = kRam * kPageSize;
  EXPECT_THAT(refusal(small({0x1000, 0x2000, kEnd - 0x1000, kBoth})), HasSubstr("no RAM"));
  EXPECT_THAT(refusal(small({0x1000, 0x1000, ~0xfffull, kBoth})), HasSubstr("no RAM"));
  EXPECT_THAT(refusal(small({1ull << 48, 0x1000, 0, kBoth})), HasSubstr("address width"));
  EXPECT_THAT(refusal(small({0x1000, ~0xfffull, 0, kBoth})), HasSubstr("address width"));
  EXPECT_THAT(refusal(small({0x1000, 0, 0, kBoth})), HasSubstr("empty"));
  EXPECT_THAT(refusal(small({0x1001, 0x1000, 0, kBoth})), HasSubstr("whole pages"));
  for (const std::uint64_t flags : {0ull, 4ull, 1ull << 32 | kBoth, ~0ull})
    EXPECT_THAT(refusal(small({0x1000, 0x1000, 0, flags})), HasSubstr("permissions")) << flags;

  auto stranger = small();
  stranger.endpoints.push_back({99, 1});
  EXPECT_THAT(refusal(counted(stranger)), HasSubstr("no device 0x63"));
  auto homeless = small();
  homeless.endpoints.push_back({16, 2});
  EXPECT_THAT(refusal(counted(homeless)), HasSubstr("did not come"));
  auto deserted = small();
  deserted.endpoints.clear();
  EXPECT_THAT(refusal(counted(deserted)), HasSubstr("nothing is attached"));
  auto twice = small();
  twice.domains.push_back(twice.domains.front());
  EXPECT_THAT(refusal(counted(twice)), HasSubstr("mapped already"));
  auto elsewhere = small();
  elsewhere.domains.push_back({.id = 2, .mappings = {}});
  elsewhere.endpoints.push_back({8, 2});
  EXPECT_THAT(refusal(counted(elsewhere)), HasSubstr("nothing is attached")) << "one device in two domains";
}

TEST_F(VirtualIommuState, MoreMappingsThanThereMayBeAreRefused) {
  Side side(*memory, 500);
  const auto loaded = side.load(bytes_of(source.iommu.state()));
  ASSERT_FALSE(loaded);
  EXPECT_EQ(loaded.error().code(), Errc::limit);
  EXPECT_TRUE(side.empty());
}

TEST_F(VirtualIommuState, CountsBeyondTheirLimitsAreRefused) {
  for (const std::size_t at : {0, 8}) {  // domain_count, bytes of the first domain
    auto bytes = bytes_of(source.iommu.state());
    store_be(bytes.data() + at, std::uint32_t{0xfffffff0});
    const auto state = state_from(bytes);
    ASSERT_FALSE(state);
    EXPECT_THAT(state.error().to_string(), HasSubstr("is outside"));
  }
}

TEST_F(VirtualIommuState, ADeviceThatRefusesAnyOneChangeLeavesNothingAttached) {
  const auto bytes = bytes_of(source.iommu.state());
  for (std::size_t n = 1;; n += n < 4 ? 1 : 41) {
    Side side(*memory);
    side.listeners[1].refuse_number = n;
    const auto loaded = side.load(bytes);
    if (loaded) {
      EXPECT_GT(n, 600u);
      break;
    }
    EXPECT_EQ(loaded.error().code(), Errc::device);
    ASSERT_TRUE(side.empty()) << "it refused number " << n;
  }
}

TEST_F(VirtualIommuState, WhatIsCutShortIsRefused) {
  const auto bytes = bytes_of(small());
  for (std::size_t length = 0; length < bytes.size(); ++length) {
    Side side(*memory);
    EXPECT_FALSE(side.load({bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(length)}));
    EXPECT_TRUE(side.empty());
  }
}

TEST_F(VirtualIommuState, FlippedBitsAreTakenWholeOrNotAtAll) {
  std::mt19937_64 random{test::random_seed()};
  auto state = small({0x1000, 0x2000, 0x3000, kBoth, 0x8000, 0x1000, 0x3000, kDmaRead});
  state.endpoints.push_back({16, 1});
  const auto valid = bytes_of(counted(state));
  int refused = 0, taken = 0;
  for (int i = 0; i < 20'000 && !HasFailure(); ++i) {
    auto bytes = valid;
    for (auto flips = 1 + random() % 3; flips > 0; --flips)
      bytes[random() % bytes.size()] ^= std::byte{1} << random() % 8;
    Side side(*memory);
    if (const auto loaded = side.load(bytes); !loaded) {
      ++refused;
      ASSERT_TRUE(side.empty()) << loaded.error().to_string();
      continue;
    }
    ++taken;
    std::size_t told = 0;
    for (const auto& [id, domain] : side.iommu.state().endpoints) {
      ASSERT_TRUE(id % 8 == 0 && id <= 24);
      told = std::max(told, side.listeners[id / 8 - 1].mappings().size());
    }
    ASSERT_EQ(side.iommu.mappings(), told);
  }
  EXPECT_GT(refused, 200);
  EXPECT_GT(taken, 200);
}

}  // namespace
}  // namespace handover::vfio
