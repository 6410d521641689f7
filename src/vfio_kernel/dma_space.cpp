#include "vfio_kernel/dma_space.h"

#include <sys/resource.h>

#include <cerrno>

namespace handover::vfio_kernel {
namespace {

std::uint64_t last_of(const vfio::IovaRange& range) {
  return range.start.value + (range.size - 1);
}

}  // namespace

Status DmaSpace::map(const vfio::DmaMapping& mapping) {
  HANDOVER_TRY(add(mapping));
  // Only now: of a mapping that the kernel does not have yet it cannot be asked what was written there.
  const std::lock_guard lock(mutex_);
  if (mapped_.add({.iova = mapping.iova, .size = mapping.size, .target = {}, .flags = mapping.flags}))
    return {};
  return fail(Errc::state, "the kernel has mapped [{:#x}, +{:#x}) over another mapping", mapping.iova.value,
              mapping.size);
}

Status DmaSpace::unmap(const vfio::IovaRange& range) {
  const std::lock_guard lock(mutex_);
  return unmap_by(range, [this](const vfio::IovaRange& mapping) { return take_away(mapping); });
}

Status DmaSpace::unmap_by(const vfio::IovaRange& range, const Take& take) {
  if (range.size == 0 || last_of(range) < range.start.value)
    return fail(Errc::invalid_argument, "unmapping [{:#x}, +{:#x}): it is empty, or wraps", range.start.value,
                range.size);
  HANDOVER_ASSIGN_CONTEXT(const auto inside, mapped_.inside(range), "unmapping [{:#x}, +{:#x})",
                          range.start.value, range.size);
  for (const auto& mapping : inside) {
    HANDOVER_TRY_CONTEXT(take({mapping.iova, mapping.size}), "unmapping [{:#x}, +{:#x})", mapping.iova.value,
                         mapping.size);
    mapped_.remove(mapping.iova);
  }
  return {};
}

std::optional<vfio::IovaRange> DmaSpace::next_run(const vfio::IovaRange& range, std::uint64_t most) const {
  return vfio_kernel::next_run(mapped_, range, most);
}

std::optional<vfio::IovaRange> next_run(const vfio::MappingTable& mapped, const vfio::IovaRange& range,
                                        std::uint64_t most) {
  const auto* first = range.size == 0 ? nullptr : mapped.at_or_after(range.start);
  if (!first || first->iova.value > last_of(range)) return std::nullopt;
  vfio::IovaRange run{first->iova, first->size};
  while (last_of(run) < last_of(range)) {
    const auto* next = mapped.at(Iova{last_of(run) + 1});
    if (!next || run.size >= most || next->size > most - run.size) break;
    run.size += next->size;
  }
  return run;
}

std::unexpected<Error> explain_map_failure(const vfio::DmaMapping& mapping, Error error) {
  const int err = error.sys_errno();
  auto text = fmt::format("mapping [{:#x}, +{:#x}) for DMA", mapping.iova.value, mapping.size);
  rlimit limit{};
  if (err == ENOMEM && ::getrlimit(RLIMIT_MEMLOCK, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY)
    text += fmt::format(
        " (memory that a device reaches stays locked, and the limit is {} KiB for a process or, with "
        "iommufd, all of a "
        "user's together; raise it: `ulimit -l`, memlock in /etc/security/limits.conf, LimitMEMLOCK= of a "
        "service)",
        limit.rlim_cur / 1024);
  return std::unexpected(std::move(error).with_context(std::move(text)));
}

}  // namespace handover::vfio_kernel
