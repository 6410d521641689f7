#include "unit/vfio_user/served_toy.h"

namespace handover::vfio_user {
namespace {

using namespace protocol;

class Negotiation : public ServedToy {
 protected:
  void SetUp() override { serve(); }
};

struct Case {
  std::string name;
  std::vector<std::byte> payload;
  bool accepted;
};

std::vector<std::byte> version(std::uint16_t major, std::uint16_t minor, const std::string& json,
                               bool nul = true) {
  NativeWriter out;
  out.u16(major);
  out.u16(minor);
  out.text(json);
  if (nul && !json.empty()) out.u8(0);
  return out.take();
}

TEST_F(Negotiation, AcceptsWhatIsSoundAndClosesOnWhatIsNot) {
  const std::string caps = R"({"capabilities":{)";
  std::vector<Case> cases = {
      {"no JSON", version(0, 0, ""), true},
      {"empty object", version(0, 1, "{}"), true},
      {"minor 77", version(0, 77, "{}"), true},
      {"limits", version(0, 2, caps + R"("max_msg_fds":32,"max_data_xfer_size":1024}})"), true},
      {"no descriptors with twin socket",
       version(0, 2, caps + R"("max_msg_fds":0,"twin_socket":{"supported":true}}})"), true},
      {"transfer size 0", version(0, 2, caps + R"("max_data_xfer_size":0}})"), true},
      {"transfer size 2^40", version(0, 2, caps + R"("max_data_xfer_size":1099511627776}})"), true},
      {"duplicate keys", version(0, 2, caps + R"("max_msg_fds":1,"max_msg_fds":2}})"), true},
      {"migration without content", version(0, 2, caps + R"("migration":{}}})"), true},
      {"empty", {}, false},
      {"short", std::vector<std::byte>(3), false},
      {"major 1", version(1, 0, "{}"), false},
      {"major 999", version(999, 0, "{}"), false},
      {"no NUL", version(0, 2, "{}", false), false},
      {"no closing brace", version(0, 2, caps), false},
      {"no closing quote", version(0, 2, R"({"capabilities)"), false},
      {"trailing garbage", version(0, 2, "{} x"), false},
      {"not UTF-8", version(0, 2, "{\"\xc0\xaf\":1}"), false},
      {"nested 5000 deep", version(0, 2, std::string(5000, '[') + std::string(5000, ']')), false},
      {"JSON of 1 MiB", version(0, 2, "{\"x\":\"" + std::string(1 << 20, 'x') + "\"}"), false},
      {"capabilities no object", version(0, 2, R"({"capabilities":[]})"), false},
      {"fds a string", version(0, 2, caps + R"("max_msg_fds":"1"}})"), false},
      {"fds negative", version(0, 2, caps + R"("max_msg_fds":-1}})"), false},
      {"pgsize a string", version(0, 2, caps + R"("migration":{"pgsize":"4096"}}})"), false},
      {"twin supported 1", version(0, 2, caps + R"("twin_socket":{"supported":1}}})"), false},
  };
  const auto before = open_fds();
  for (const auto& each : cases) {
    WireClient wire(path_);
    const auto reply = wire.call(Command::version, MessageBuilder().data(each.payload));
    EXPECT_EQ(reply.header.failed(), !each.accepted) << each.name;
    EXPECT_TRUE(reply.fds.empty()) << each.name;
    EXPECT_LE(reply.payload.size() + kHeaderSize, kMaxVersionReply) << each.name;
    if (each.accepted)
      EXPECT_TRUE(wire.alive()) << each.name;
    else
      EXPECT_FALSE(wire.receive()) << each.name << ": the connection is not closed";
    wire.close();
    ASSERT_TRUE(idle());
  }
  EXPECT_EQ(open_fds(), before);
}

TEST_F(Negotiation, MinorIsTheSmallerOfBoth) {
  for (const auto& [theirs, ours] : {std::pair{0, 0}, {1, 1}, {2, 2}, {9, 2}}) {
    WireClient wire(path_);
    const auto reply = wire.call(Command::version,
                                 MessageBuilder().data(version(0, static_cast<std::uint16_t>(theirs), "{}")));
    EXPECT_EQ(Version::decode(reply.payload)->minor, ours);
  }
}

TEST_F(Negotiation, OursIsNamedOnlyToThoseWhoNamedItFirst) {
  for (const bool named : {true, false}) {
    WireClient wire(path_);
    const auto reply = wire.negotiate(named ? R"({"capabilities":{"handover":{}}})" : "{}");
    const auto server = parse_capabilities(Version::decode(reply.payload)->text);
    ASSERT_TRUE(server);
    EXPECT_EQ(server->handover, named);
    EXPECT_FALSE(server->twin_socket);
    EXPECT_TRUE(server->write_multiple);
    EXPECT_EQ(server->max_msg_fds, 16u);
    EXPECT_TRUE(server->migration);
  }
}

TEST_F(Negotiation, TwinSocketComesAsADescriptor) {
  WireClient wire(path_);
  const auto reply =
      wire.negotiate(R"({"capabilities":{"max_msg_fds":8,"twin_socket":{"supported":true},"handover":{}}})");
  const auto server = parse_capabilities(Version::decode(reply.payload)->text);
  ASSERT_TRUE(server && server->twin_socket);
  EXPECT_TRUE(server->twin_socket->supported);
  EXPECT_EQ(server->twin_socket->fd_index, 0u);
  EXPECT_EQ(reply.fds.size(), 1u);
  EXPECT_LE(reply.payload.size() + kHeaderSize, kMaxVersionReply);
}

TEST_F(Negotiation, ComesFirstAndOnce) {
  WireClient early(path_);
  EXPECT_EQ(early.call_errno(Command::device_get_info, MessageBuilder().add(protocol::DeviceInfo{})), EINVAL);
  EXPECT_FALSE(early.receive());
  auto late = client();
  EXPECT_EQ(late.call_errno(Command::version, MessageBuilder().data(version(0, 2, "{}"))), EINVAL);
  EXPECT_TRUE(late.alive());
}

TEST_F(Negotiation, DescriptorsWithItAreRefusedAndClosed) {
  const auto eventfd = make_eventfd();
  const auto before = open_fds();
  {
    WireClient wire(path_);
    EXPECT_EQ(wire.call_errno(Command::version, MessageBuilder().data(version(0, 2, "{}")), {eventfd.get()}),
              EINVAL);
    EXPECT_FALSE(wire.receive());
  }
  ASSERT_TRUE(idle());
  EXPECT_EQ(open_fds(), before);
}

TEST_F(Negotiation, RefusesOptionsThatNoClientWouldTake) {
  EventLoop loop("unused");
  ToyDevice toy;
  EXPECT_FALSE(Server::create(loop, toy, {test_socket_path("x"), 1u << 30, 100}));
  EXPECT_FALSE(Server::create(loop, toy, {test_socket_path("x"), 1u << 20, 65536}));
  const auto second = Server::create(loop, toy, {path_});
  ASSERT_FALSE(second) << "the path is served";
  EXPECT_NE(second.error().to_string().find(path_), std::string::npos);
}

}  // namespace
}  // namespace handover::vfio_user
