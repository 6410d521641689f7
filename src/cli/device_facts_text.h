#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "handover/solo/device_facts.h"

namespace handover::cli {

std::string facts_text(const solo::DeviceFacts& facts);
nlohmann::ordered_json facts_json(const solo::DeviceFacts& facts);

}  // namespace handover::cli
