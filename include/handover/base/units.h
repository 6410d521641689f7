#pragma once

#include <compare>
#include <cstdint>

namespace handover {

inline constexpr std::uint64_t KiB = 1024;
inline constexpr std::uint64_t MiB = 1024 * KiB;
inline constexpr std::uint64_t GiB = 1024 * MiB;

/// The page size of the stream and of every bitmap unless said otherwise (x86-64 and arm64 default).
inline constexpr std::uint64_t kPageSize = 4096;

/// An address as the guest's CPUs see it.
struct Gpa {
  std::uint64_t value = 0;
  auto operator<=>(const Gpa&) const = default;
  Gpa operator+(std::uint64_t n) const { return {value + n}; }
};

/// An address as a device sees it; equal to a Gpa only where there is no IOMMU between.
struct Iova {
  std::uint64_t value = 0;
  auto operator<=>(const Iova&) const = default;
  Iova operator+(std::uint64_t n) const { return {value + n}; }
};

/// True if [offset, offset + length) lies inside [0, size); never overflows.
constexpr bool range_fits(std::uint64_t offset, std::uint64_t length, std::uint64_t size) {
  return offset <= size && length <= size - offset;
}

constexpr std::uint64_t align_up(std::uint64_t value, std::uint64_t unit) {
  return (value + unit - 1) / unit * unit;
}

}  // namespace handover
