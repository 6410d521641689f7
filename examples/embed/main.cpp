// The smallest VMM that migrates: memory, one item with state of its own, a source and a destination.
// Both ends live in this process and talk over a socket pair; two processes would use an Address instead.

#include <fmt/core.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstdlib>

#include "handover/migration/destination.h"
#include "handover/migration/source.h"

using namespace handover;

namespace {

/// Whatever the embedder's machine has besides memory: here a clock that counts.
///
/// The description says once what the state is; it writes it, reads and checks it, and puts it into the
/// stream's own description, so that `handover inspect` can print it.
class Clock final : public StateItem {
 public:
  std::uint64_t ticks = 0;

  std::string section_name() const override { return "example/clock"; }
  const vmstate::Description* description() const override {
    static const auto description =
        vmstate::Describe<Clock>("example/clock", 1)
            .field("ticks", &Clock::ticks)
            .post_load([](Clock& clock, std::uint32_t) -> Status {
              // The stream is not trusted: what makes no sense is refused, and the source runs on.
              if (clock.ticks > 1'000'000)
                return fail(Errc::mismatch, "{} ticks are more than there can be", clock.ticks);
              return {};
            })
            .done();
    return description.get();
  }

 protected:
  void* mutable_object() const override { return const_cast<Clock*>(this); }
};

/// One machine with its event loop.  Members are destroyed from the last to the first.
struct Vm {
  Vm(std::string name, RunState initial)
      : memory(or_exit(GuestMemory::create(16 * MiB))),
        loop(std::move(name)),
        machine(loop, *memory, initial),
        ram(*memory) {
    machine.add_migratable(ram);
    machine.add_migratable(clock);
    loop.start_thread();
  }

  template <class T>
  static T or_exit(Result<T> result) {
    if (result) return std::move(*result);
    fmt::print(stderr, "embed: {}\n", result.error().to_string());
    std::exit(1);
  }

  std::unique_ptr<GuestMemory> memory;
  EventLoop loop;
  Machine machine;
  RamMigration ram;
  Clock clock;
};

bool equal_memory(const GuestMemory& a, const GuestMemory& b) {
  return std::ranges::equal(a.blocks(), b.blocks(), [](const auto& x, const auto& y) {
    return std::ranges::equal(std::span(x->data(), x->size()), std::span(y->data(), y->size()));
  });
}

}  // namespace

int main() {
  Vm here("here", RunState::prelaunch);
  Vm there("there", RunState::inmigrate);

  // Who runs guest work writes memory through write(), or calls mark_written() after writing directly.
  here.clock.ticks = 42;
  for (std::uint64_t page = 0; page < 100; ++page) {
    const auto text = fmt::format("page {}", page);
    here.memory->write(Gpa{page * kPageSize}, std::as_bytes(std::span(text)));
  }
  // A machine belongs to its loop's thread.
  if (auto started = here.loop.call([&] { return here.machine.start(); }); !started) {
    fmt::print(stderr, "embed: {}\n", started.error().to_string());
    return 1;
  }

  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) return 1;
  auto out = Vm::or_exit(adopt_channel(UniqueFd(ends[0]), "to there"));
  auto in = Vm::or_exit(adopt_channel(UniqueFd(ends[1]), "from here"));

  Destination destination(there.machine, {});
  destination.start(std::move(in));
  Source source(here.machine, &here.ram, {});
  source.start(std::move(out));

  const auto sent = source.wait();
  const auto arrived = destination.wait();
  const auto figures = source.statistics();
  fmt::print("source: {} {}\n", to_string(sent), figures.error);
  fmt::print("destination: {} {}\n", to_string(arrived), destination.error());
  fmt::print("{} bytes sent, {:.1f} ms of downtime\n", figures.transferred, figures.downtime_ms);
  fmt::print("here: {}, there: {}\n", to_string(here.machine.state()), to_string(there.machine.state()));
  fmt::print("clock: {} ticks there; memory: {}\n", there.clock.ticks,
             equal_memory(*here.memory, *there.memory) ? "equal" : "different");
  return sent == MigrationStatus::completed && arrived == MigrationStatus::completed ? 0 : 1;
}
