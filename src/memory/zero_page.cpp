#include "handover/memory/zero_page.h"

#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace handover {
namespace {

bool is_zero_portable(const std::byte* page) {
  for (std::size_t at = 0; at < kPageSize; at += 64) {
    std::uint64_t words[8];
    std::memcpy(words, page + at, sizeof words);
    std::uint64_t any = 0;
    for (const auto word : words)
      any |= word;
    if (any != 0) return false;
  }
  return true;
}

#if defined(__x86_64__)

// Four registers a step: wide enough to keep the loads flowing, small enough to leave early.

__attribute__((target("sse2"))) bool is_zero_sse2(const std::byte* page) {
  const auto* at = reinterpret_cast<const __m128i*>(page);
  const auto* end = at + kPageSize / sizeof *at;
  for (; at != end; at += 4) {
    const __m128i any = _mm_or_si128(_mm_or_si128(_mm_load_si128(at), _mm_load_si128(at + 1)),
                                     _mm_or_si128(_mm_load_si128(at + 2), _mm_load_si128(at + 3)));
    if (_mm_movemask_epi8(_mm_cmpeq_epi8(any, _mm_setzero_si128())) != 0xffff) return false;
  }
  return true;
}

__attribute__((target("avx2"))) bool is_zero_avx2(const std::byte* page) {
  const auto* at = reinterpret_cast<const __m256i*>(page);
  const auto* end = at + kPageSize / sizeof *at;
  for (; at != end; at += 4) {
    const __m256i any =
        _mm256_or_si256(_mm256_or_si256(_mm256_load_si256(at), _mm256_load_si256(at + 1)),
                        _mm256_or_si256(_mm256_load_si256(at + 2), _mm256_load_si256(at + 3)));
    if (_mm256_testz_si256(any, any) == 0) return false;
  }
  return true;
}

__attribute__((target("avx512f"))) bool is_zero_avx512(const std::byte* page) {
  for (std::size_t at = 0; at < kPageSize; at += 256) {
    const __m512i low = _mm512_or_si512(_mm512_load_si512(page + at), _mm512_load_si512(page + at + 64));
    const __m512i high =
        _mm512_or_si512(_mm512_load_si512(page + at + 128), _mm512_load_si512(page + at + 192));
    const __m512i any = _mm512_or_si512(low, high);
    if (_mm512_test_epi64_mask(any, any) != 0) return false;
  }
  return true;
}

#endif

std::vector<ZeroPageCheck> checks_of_this_cpu() {
  std::vector<ZeroPageCheck> checks;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f")) checks.push_back({"avx512", is_zero_avx512});
  if (__builtin_cpu_supports("avx2")) checks.push_back({"avx2", is_zero_avx2});
  if (__builtin_cpu_supports("sse2")) checks.push_back({"sse2", is_zero_sse2});
#endif
  checks.push_back({"portable", is_zero_portable});
  return checks;
}

}  // namespace

std::span<const ZeroPageCheck> zero_page_checks() {
  static const std::vector<ZeroPageCheck> checks = checks_of_this_cpu();
  return checks;
}

bool is_zero_page_thorough(const std::byte* page) {
  static const auto widest = zero_page_checks().front().is_zero;
  return widest(page);
}

}  // namespace handover
