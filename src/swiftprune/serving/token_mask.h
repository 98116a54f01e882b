// Which tokens may come next when a text must be JSON of a schema: the acceptor's bytes, asked along the tree
// of the vocabulary's tokens.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "swiftprune/serving/json_acceptor.h"
#include "swiftprune/serving/token_table.h"

namespace swiftprune {

// What a text must be, in the tokens of one vocabulary.
struct TokenGrammar {
  JsonSchema schema;
  std::shared_ptr<const TokenTable> tokens;
};

class TokenMask {
 public:
  // Keeps a reference.
  explicit TokenMask(const TokenGrammar& grammar);
  // Logits of tokens that may not come next become -infinity; end tokens may come where the text may end.
  void exclude(std::span<float> logits, std::span<const std::int32_t> end_tokens);
  // Throws Error{kFailure} for a token that may not come.
  void add(std::int32_t token);
  bool may_end() const { return acceptor_.may_end(states_); }
  bool complete() const { return JsonAcceptor::complete(states_); }

 private:
  const TokenGrammar& grammar_;
  JsonAcceptor acceptor_;
  JsonAcceptor::States states_;
  std::vector<JsonAcceptor::States> path_;  // by depth in the tree
};

}  // namespace swiftprune
