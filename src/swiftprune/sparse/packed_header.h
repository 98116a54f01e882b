// What the header of a packed tensor says, where the rest is not looked at yet: plans are made by it.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "swiftprune/checkpoint/checkpoint.h"
#include "swiftprune/sparse/packed_tensor.h"

namespace swiftprune {

// Throws Error{kBadInput} where the header breaks a rule; `name` is the tensor's name in the message.
PackedShape read_packed_shape(std::span<const std::byte> bytes, std::string_view name);
// The same of the linear's packed weight; nothing when the tensor `weight_name` ("….weight") is not packed.
std::optional<PackedShape> find_packed_shape(const Checkpoint& checkpoint, const std::string& weight_name);

}  // namespace swiftprune
