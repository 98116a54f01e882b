#include "swiftprune/serving/token_mask.h"

#include <limits>
#include <vector>

#include "swiftprune/core/error.h"

namespace swiftprune {

TokenMask::TokenMask(const TokenGrammar& grammar)
    : grammar_(grammar), acceptor_(grammar.schema), states_(acceptor_.start()) {}

void TokenMask::exclude(std::span<float> logits, std::span<const std::int32_t> end_tokens) {
  std::vector<bool> allowed(logits.size(), false);
  const auto allow = [&](std::int32_t id, bool may_come) {
    if (static_cast<std::size_t>(id) < logits.size()) allowed[static_cast<std::size_t>(id)] = may_come;
  };
  const auto& nodes = grammar_.tokens->nodes();
  const auto& ids = grammar_.tokens->ids();
  const std::size_t frames = acceptor_.num_frames();
  if (path_.empty()) path_.resize(1);
  path_[0] = states_;
  for (std::size_t i = 0; i < nodes.size();) {
    const TokenTable::Node& node = nodes[i];
    const auto depth = static_cast<std::size_t>(node.depth);
    if (path_.size() <= depth) path_.resize(depth + 1);
    acceptor_.step(path_[depth - 1], node.byte, path_[depth]);
    if (path_[depth].empty()) {
      i = static_cast<std::size_t>(node.end);
      continue;
    }
    for (std::int32_t k = node.first_id; k < node.last_id; ++k) allow(ids[static_cast<std::size_t>(k)], true);
    ++i;
  }
  acceptor_.forget_frames(frames);
  // End tokens are special or plain; where the text may not end, none of them may come.
  for (const std::int32_t id : end_tokens) allow(id, may_end());
  for (std::size_t i = 0; i < logits.size(); ++i) {
    if (!allowed[i]) logits[i] = -std::numeric_limits<float>::infinity();
  }
}

void TokenMask::add(std::int32_t token) {
  JsonAcceptor::States next;
  for (const char byte : grammar_.tokens->bytes(token)) {
    acceptor_.step(states_, static_cast<std::uint8_t>(byte), next);
    states_.swap(next);
  }
  if (states_.empty()) fail(ErrorKind::kFailure, "response_format: the token {} does not fit", token);
}

}  // namespace swiftprune
