// Arbitrary bytes as the body of a request, for the endpoint that the first byte chooses. What is accepted with a
// response_format is followed token by token, as an answer would be.
#include <vector>

#include "fuzz_folder.h"
#include "fuzz_model.h"
#include "swiftprune/serving/openai_api.h"
#include "swiftprune/serving/token_mask.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace swiftprune;
  if (size == 0) return 0;
  const fuzz::ServedModel& served = fuzz::served_model();
  const std::string body(fuzz::text(data + 1, size - 1));
  try {
    const ApiRequest request = data[0] % 2 == 0 ? parse_completion(body, served.api, served.limits)
                                                : parse_chat(body, served.api, &served.chat, served.limits);
    const auto& grammar = request.first().grammar;
    if (grammar == nullptr) return 0;
    constexpr int kTokens = 12;
    TokenMask mask(*grammar);
    std::vector<float> logits(static_cast<std::size_t>(served.api.vocab_size));
    for (int t = 0; t < kTokens && !mask.complete(); ++t) {
      std::fill(logits.begin(), logits.end(), 0.0f);
      mask.exclude(logits, served.api.end_tokens);
      std::vector<std::int32_t> allowed;
      for (std::size_t id = 0; id < logits.size(); ++id) {
        if (logits[id] == 0.0f) allowed.push_back(static_cast<std::int32_t>(id));
      }
      if (allowed.empty()) break;
      const std::int32_t token = allowed[(data[size - 1] + static_cast<std::size_t>(t)) % allowed.size()];
      if (token == served.api.end_tokens.front()) break;
      mask.add(token);
    }
  } catch (const ApiError&) {
  }
  return 0;
}
