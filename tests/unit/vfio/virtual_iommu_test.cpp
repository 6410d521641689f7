#include "handover/vfio/virtual_iommu.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <random>

#include "unit/memory/random_seed.h"
#include "unit/vfio/recording_iommu_listener.h"

namespace handover::vfio {
namespace {

using test::RecordingIommuListener;
using testing::ElementsAre;
using testing::IsEmpty;
using testing::SizeIs;
using Kind = IommuChange::Kind;

constexpr std::uint32_t kBoth = kDmaRead | kDmaWrite;
constexpr std::uint32_t kDomain = 5;

IommuMapping mapping(std::uint64_t iova, std::uint64_t target, std::uint64_t pages = 1,
                     std::uint32_t flags = kBoth) {
  return {Iova{iova * kPageSize}, pages * kPageSize, Gpa{target * kPageSize}, flags};
}
IommuRequest map(const IommuMapping& mapping) {
  return {Kind::map, mapping.iova, mapping.size, mapping.target, mapping.flags, {}};
}
IommuRequest map(std::uint64_t iova, std::uint64_t target, std::uint64_t pages = 1) {
  return map(mapping(iova, target, pages));
}
IommuRequest unmap(std::uint64_t iova, std::uint64_t pages = 1) {
  return {Kind::unmap, Iova{iova * kPageSize}, pages * kPageSize, {}, 0, {}};
}
/// Errc as a number; -1: it went well.
int code(const Status& status) {
  return status ? -1 : static_cast<int>(status.error().code());
}
constexpr int kOk = -1;
constexpr int kInvalid = static_cast<int>(Errc::invalid_argument);
constexpr int kState = static_cast<int>(Errc::state);
constexpr int kDevice = static_cast<int>(Errc::device);

class VirtualIommuTest : public testing::Test {
 protected:
  static constexpr std::uint64_t kRam = 256;  // pages

  VirtualIommuTest() {
    iommu.add_endpoint(1, a);
    iommu.add_endpoint(2, b);
  }
  std::vector<int> change(std::vector<IommuRequest> requests, std::uint32_t domain = kDomain) {
    iommu.change(domain, requests);
    std::vector<int> codes;
    for (const auto& request : requests)
      codes.push_back(code(request.result));
    return codes;
  }
  int change(const IommuRequest& request, std::uint32_t domain = kDomain) {
    return change(std::vector{request}, domain).front();
  }

  std::unique_ptr<GuestMemory> memory = GuestMemory::create(kRam * kPageSize).value();
  VirtualIommu iommu{*memory, {.max_mappings = 1000}};
  RecordingIommuListener a, b;
};

class AttachedIommuTest : public VirtualIommuTest {
 protected:
  AttachedIommuTest() { EXPECT_TRUE(iommu.attach(1, kDomain)); }
};

TEST_F(AttachedIommuTest, WhatIsMappedTheDeviceIsTold) {
  EXPECT_EQ(change(map(10, 3, 2)), kOk);
  EXPECT_THAT(a.mappings(), ElementsAre(mapping(10, 3, 2)));
  EXPECT_EQ(iommu.mappings(), 1u);
  EXPECT_EQ(change(unmap(10, 2)), kOk);
  EXPECT_THAT(a.mappings(), IsEmpty());
  EXPECT_EQ(iommu.mappings(), 0u);
}

TEST_F(AttachedIommuTest, AMappingOverAnotherIsAConflict) {
  ASSERT_EQ(change(map(10, 3, 4)), kOk);
  EXPECT_THAT(change({map(10, 3, 4), map(9, 0, 2), map(13, 0), map(0, 0, 50), map(11, 0)}),
              ElementsAre(kState, kState, kState, kState, kState));
  EXPECT_THAT(change({map(14, 0), map(9, 0)}), ElementsAre(kOk, kOk));
  EXPECT_EQ(iommu.mappings(), 3u);
  EXPECT_THAT(a.mappings(), SizeIs(3));
}

TEST_F(AttachedIommuTest, AnUnmapThatWouldCutIsAConflictAndTakesNothing) {
  ASSERT_THAT(change({map(8, 0), map(10, 3, 4)}), ElementsAre(kOk, kOk));
  EXPECT_THAT(change({unmap(10, 3), unmap(11, 3), unmap(11), unmap(0, 12)}),
              ElementsAre(kState, kState, kState, kState));
  EXPECT_THAT(a.mappings(), SizeIs(2));
  EXPECT_EQ(iommu.mappings(), 2u);
}

TEST_F(AttachedIommuTest, OneUnmapTakesSeveralMappingsAndHoles) {
  ASSERT_THAT(change({map(8, 0), map(10, 3, 4), map(100, 3), map(200, 4)}), ElementsAre(kOk, kOk, kOk, kOk));
  EXPECT_EQ(change(unmap(0, 150)), kOk);
  EXPECT_THAT(a.mappings(), ElementsAre(mapping(200, 4)));
  EXPECT_EQ(change(unmap(0, 150)), kOk) << "nothing is there";
  IommuRequest everything{Kind::unmap, Iova{0}, std::uint64_t{1} << 48, {}, 0, {}};
  EXPECT_EQ(change(everything), kOk);
  EXPECT_EQ(iommu.mappings(), 0u);
}

TEST_F(AttachedIommuTest, WhatMakesNoSenseIsRefused) {
  const auto good = map(10, 3, 2);
  const auto with = [&](auto change_it) {
    auto request = good;
    change_it(request);
    return request;
  };
  constexpr std::uint64_t kWidth = std::uint64_t{1} << 48;
  constexpr std::uint64_t kLastPage = ~(kPageSize - 1);
  EXPECT_THAT(
      change({with([](auto& r) { r.size = 0; }), with([](auto& r) { r.iova.value += 8; }),
              with([](auto& r) { r.size -= 1; }), with([](auto& r) { r.target.value += 512; }),
              with([](auto& r) { r.iova.value = kWidth; }),
              with([](auto& r) { r.iova.value = kWidth - kPageSize; }),
              with([](auto& r) { r.iova.value = kLastPage; }), with([](auto& r) { r.size = kLastPage; }),
              with([](auto& r) { r.target.value = (kRam - 1) * kPageSize; }),
              with([](auto& r) { r.target.value = kRam * kPageSize; }),
              with([](auto& r) { r.target.value = kLastPage; }), with([](auto& r) { r.flags = 0; }),
              with([](auto& r) { r.flags = 4; }), with([](auto& r) { r.flags = kBoth | 1u << 31; })}),
      testing::Each(kInvalid));
  auto empty = unmap(10);
  empty.size = 0;
  auto crooked = unmap(10);
  crooked.iova.value += 1;
  EXPECT_THAT(change({empty, crooked, unmap(kWidth / kPageSize - 1, 2), unmap(1, kLastPage / kPageSize)}),
              testing::Each(kInvalid));
  EXPECT_EQ(a.told, 0u);
  EXPECT_EQ(iommu.mappings(), 0u);
  EXPECT_EQ(change(map(kWidth / kPageSize - 1, kRam - 1)), kOk) << "the last page of each";
}

TEST_F(AttachedIommuTest, ADomainWithoutDevicesIsNotFound) {
  EXPECT_THAT(change({map(1, 1), unmap(1)}, kDomain + 1), testing::Each(static_cast<int>(Errc::not_found)));
  EXPECT_EQ(code(iommu.attach(3, kDomain)), static_cast<int>(Errc::not_found));
  EXPECT_EQ(code(iommu.detach(3)), static_cast<int>(Errc::not_found));
}

TEST_F(AttachedIommuTest, MoreMappingsThanThereMayBeAreRefused) {
  for (std::uint64_t i = 0; i < 1000; ++i)
    ASSERT_EQ(change(map(i, i % kRam)), kOk);
  EXPECT_THAT(change({map(2000, 1), unmap(3), map(3, 9), map(2000, 1)}),
              ElementsAre(static_cast<int>(Errc::limit), kOk, kOk, static_cast<int>(Errc::limit)));
  EXPECT_EQ(iommu.mappings(), 1000u);
}

TEST_F(AttachedIommuTest, AnIovaCanBeGivenToAnotherPageInOneBatch) {
  ASSERT_EQ(change(map(10, 3)), kOk);
  a.batches.clear();
  EXPECT_THAT(change({unmap(10), map(10, 4)}), ElementsAre(kOk, kOk));
  EXPECT_THAT(a.mappings(), ElementsAre(mapping(10, 4)));
  EXPECT_THAT(a.batches, ElementsAre(2)) << "the device is told at once";
}

TEST_F(AttachedIommuTest, WhatARefusedMapLeavesFreeTheSameBatchCanUse) {
  a.refuse_number = 1;
  EXPECT_THAT(change({map(10, 3), unmap(10), map(10, 4)}), ElementsAre(kDevice, kOk, kOk));
  EXPECT_THAT(a.mappings(), ElementsAre(mapping(10, 4)));
  EXPECT_EQ(iommu.mappings(), 1u);
  EXPECT_EQ(change(unmap(10)), kOk);
  EXPECT_THAT(a.mappings(), IsEmpty());
}

TEST_F(AttachedIommuTest, AMapThatIsRefusedAndAskedForAgainIsThere) {
  a.refuse_number = 1;
  EXPECT_THAT(change({map(10, 3), unmap(10), map(10, 3)}), ElementsAre(kDevice, kOk, kOk));
  EXPECT_THAT(a.mappings(), ElementsAre(mapping(10, 3)));
  EXPECT_EQ(iommu.mappings(), 1u) << "the device has what the IOMMU has forgotten";
  a.refuse_number = a.told + 1;
  EXPECT_THAT(change({map(20, 3), map(20, 3)}), ElementsAre(kDevice, kOk));
  EXPECT_EQ(iommu.mappings(), 2u);
  EXPECT_THAT(a.mappings(), SizeIs(2));
}

TEST_F(AttachedIommuTest, AnUnmapThatTheDeviceRefusesIsToldSo) {
  ASSERT_THAT(change({map(10, 3), map(11, 4)}), ElementsAre(kOk, kOk));
  a.refuse_number = a.told + 1;
  EXPECT_EQ(change(unmap(10, 2)), kDevice);
  EXPECT_EQ(iommu.mappings(), 0u);
}

TEST_F(AttachedIommuTest, WhoComesIntoADomainIsToldOfItsMappingsAndWhoLeavesLosesThem) {
  for (std::uint64_t i = 0; i < 700; ++i)
    ASSERT_EQ(change(map(i * 2, i % kRam)), kOk);
  ASSERT_TRUE(iommu.attach(2, kDomain));
  EXPECT_EQ(b.mappings(), a.mappings());
  EXPECT_EQ(iommu.mappings(), 700u) << "they are the domain's";
  ASSERT_TRUE(iommu.attach(2, kDomain));
  EXPECT_EQ(b.told, 700u) << "it is there already";
  ASSERT_TRUE(iommu.attach(2, kDomain + 1));
  EXPECT_THAT(b.mappings(), IsEmpty());
  ASSERT_TRUE(iommu.detach(1));
  ASSERT_TRUE(iommu.detach(1));
  EXPECT_THAT(a.mappings(), IsEmpty());
  EXPECT_EQ(iommu.mappings(), 0u);
}

TEST_F(AttachedIommuTest, ADomainEndsWithItsLastDevice) {
  ASSERT_EQ(change(map(1, 1)), kOk);
  ASSERT_TRUE(iommu.attach(2, kDomain));
  ASSERT_TRUE(iommu.detach(1));
  EXPECT_EQ(iommu.mappings(), 1u);
  iommu.remove_endpoint(2);
  EXPECT_EQ(iommu.mappings(), 0u);
  EXPECT_THAT(b.mappings(), SizeIs(1)) << "who is gone is told nothing";
  EXPECT_EQ(change(map(1, 1)), static_cast<int>(Errc::not_found));
  ASSERT_TRUE(iommu.attach(1, kDomain));
  EXPECT_THAT(a.mappings(), IsEmpty()) << "the domain of that number is a new one";
}

// Whichever change it refuses, it has nothing afterwards, and the domain is as it was.
TEST_F(AttachedIommuTest, ADeviceThatRefusesAMappingOfADomainDoesNotComeIntoIt) {
  constexpr std::uint64_t kMany = 600;  // more than are told at once
  for (std::uint64_t i = 0; i < kMany; ++i)
    ASSERT_EQ(change(map(i * 2, i % kRam)), kOk);
  for (std::size_t n = 1; n <= kMany; n += n < 5 ? 1 : 37) {
    b.refuse_number = b.told + n;
    EXPECT_EQ(code(iommu.attach(2, kDomain)), kDevice);
    ASSERT_THAT(b.mappings(), IsEmpty()) << "it refused number " << n;
    ASSERT_EQ(iommu.state().endpoints.size(), 1u);
    ASSERT_EQ(iommu.mappings(), kMany);
  }
  EXPECT_THAT(a.mappings(), SizeIs(kMany));
  b.refuse_number = 0;
  EXPECT_TRUE(iommu.attach(2, kDomain));
  EXPECT_THAT(b.mappings(), SizeIs(kMany));
}

TEST_F(AttachedIommuTest, ADeviceThatKeepsAMappingIsStillAskedToLetGoOfTheOthers) {
  constexpr std::uint64_t kMany = 600;
  for (std::uint64_t i = 0; i < kMany; ++i)
    ASSERT_EQ(change(map(i * 2, i % kRam)), kOk);
  a.refuse_number = a.told + 3;
  EXPECT_EQ(code(iommu.detach(1)), kDevice);
  EXPECT_THAT(a.mappings(), IsEmpty());
  EXPECT_EQ(iommu.mappings(), 0u);
  EXPECT_TRUE(iommu.detach(1)) << "it is out of the domain all the same";
}

// Each in turn refuses: the other has it taken back, and who refused is not asked for what it never had.
TEST_F(AttachedIommuTest, WhatOneDeviceOfADomainRefusesTheOthersDoNotKeep) {
  ASSERT_TRUE(iommu.attach(2, kDomain));
  for (auto* refuser : {&a, &b}) {
    refuser->refuse_number = refuser->told + 2;
    EXPECT_THAT(change({map(10, 1), map(11, 2), map(12, 3)}), ElementsAre(kOk, kDevice, kOk));
    for (const auto* each : {&a, &b})
      EXPECT_THAT(each->mappings(), ElementsAre(mapping(10, 1), mapping(12, 3)));
    EXPECT_EQ(iommu.mappings(), 2u);
    EXPECT_EQ(change(unmap(0, 100)), kOk);
  }
  a.refuse = b.refuse = [](const IommuChange&) { return true; };
  EXPECT_EQ(change(map(10, 1)), kDevice) << "both refuse";
  EXPECT_EQ(iommu.mappings(), 0u);
}

/// Two devices of which each refuses certain memory, in one domain or in two, against a naive model.
TEST_F(VirtualIommuTest, ManyRandomRequestsAreTheSameAsOneByOne) {
  std::mt19937_64 random{test::random_seed()};
  const auto number = [&](std::uint64_t below) { return random() % below; };
  const auto refused = [](std::uint32_t endpoint, const IommuMapping& mapping) {
    const auto page = mapping.target.value / kPageSize;
    return endpoint == 1 ? page % 16 == 1 : page % 16 < 2;
  };
  for (const auto& [id, listener] : {std::pair{1u, &a}, std::pair{2u, &b}})
    listener->refuse = [&refused, id](const IommuChange& change) {
      return change.kind == Kind::map && refused(id, change.mapping);
    };
  std::map<std::uint32_t, std::uint32_t> attached;             // endpoint to domain
  std::map<std::uint32_t, std::vector<IommuMapping>> domains;  // of those that are attached
  const auto drop_unused = [&] {
    std::erase_if(domains, [&](const auto& domain) {
      return std::ranges::none_of(attached, [&](const auto& each) { return each.second == domain.first; });
    });
  };
  std::map<int, int> seen;
  for (int i = 0; i < 20'000 && !HasFailure(); ++i) {
    const auto domain = static_cast<std::uint32_t>(number(2));
    if (number(20) == 0) {
      const auto endpoint = static_cast<std::uint32_t>(1 + number(2));
      const bool leave = number(2) == 0;
      if (leave) {
        ASSERT_TRUE(iommu.detach(endpoint));
      } else {
        const bool was = attached.contains(endpoint) && attached[endpoint] == domain;
        if (!was) {
          attached.erase(endpoint);
          drop_unused();
        }
        const bool can = was || std::ranges::none_of(domains[domain], [&](const auto& each) {
                           return refused(endpoint, each);
                         });
        ASSERT_EQ(code(iommu.attach(endpoint, domain)), can ? kOk : kDevice);
        if (can) attached[endpoint] = domain;
      }
      if (leave) attached.erase(endpoint);
      drop_unused();
    } else {
      std::vector<IommuRequest> requests;
      std::vector<int> expected;
      for (auto left = 1 + number(6); left > 0; --left) {
        const auto one = mapping(number(40), number(kRam - 8), 1 + number(4));
        const bool wants_map = number(2) == 0;
        const auto wide = 1 + number(30);
        requests.push_back(wants_map ? map(one) : unmap(one.iova.value / kPageSize, wide));
        const auto& request = requests.back();
        if (!domains.contains(domain)) {
          expected.push_back(static_cast<int>(Errc::not_found));
          continue;
        }
        auto& there = domains[domain];
        const auto end = request.iova.value + request.size;
        const auto touched = [&](const IommuMapping& each) {
          return each.iova.value < end && request.iova.value < each.iova.value + each.size;
        };
        const auto cut = [&](const IommuMapping& each) {
          return touched(each) && (each.iova < request.iova || each.iova.value + each.size > end);
        };
        if (wants_map) {
          const bool taken = std::ranges::any_of(there, touched);
          const bool no = std::ranges::any_of(
              attached, [&](const auto& each) { return each.second == domain && refused(each.first, one); });
          expected.push_back(taken ? kState : no ? kDevice : kOk);
          if (expected.back() == kOk) there.push_back(one);
        } else {
          expected.push_back(std::ranges::any_of(there, cut) ? kState : kOk);
          if (expected.back() == kOk) std::erase_if(there, touched);
        }
      }
      ASSERT_EQ(change(requests, domain), expected);
      for (const auto result : expected)
        ++seen[result];
    }
    std::size_t total = 0;
    for (auto& [id, mappings] : domains) {
      std::ranges::sort(mappings, {}, &IommuMapping::iova);
      total += mappings.size();
    }
    ASSERT_EQ(iommu.mappings(), total);
    for (const auto& [id, listener] : {std::pair{1u, &a}, std::pair{2u, &b}})
      ASSERT_EQ(listener->mappings(),
                attached.contains(id) ? domains[attached[id]] : std::vector<IommuMapping>{});
  }
  for (const auto result : {kOk, kState, kDevice})
    EXPECT_GT(seen[result], 200);
}

}  // namespace
}  // namespace handover::vfio
