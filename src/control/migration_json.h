#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "handover/channel/address.h"
#include "handover/migration/statistics.h"

/// Figures and addresses of a migration as JSON; no I/O here.
namespace handover::control {

/// The answer to query-migrate for an outgoing migration, in QEMU's shape.
nlohmann::json query_migrate(const Statistics& all);
/// The same for an incoming one.
nlohmann::json query_incoming(MigrationStatus status, const std::string& error,
                              const std::optional<Address>& listening);
/// Everything that is known: rounds, items by phase, parts of the downtime.
nlohmann::json full_report(const Statistics& all);

/// The members `uri` or `channels` (exactly one of them) of migrate and migrate-incoming.
Result<Address> migration_address(const nlohmann::json& arguments);
/// A QAPI SocketAddress; nothing for addresses that are no sockets.
std::optional<nlohmann::json> socket_address_json(const Address& address);

}  // namespace handover::control
