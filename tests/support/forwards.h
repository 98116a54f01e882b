// Forwards of whole texts on the processor, with any backend.
#pragma once

#include <memory>
#include <span>
#include <utility>

#include "swiftprune/evaluation/block_errors.h"
#include "swiftprune/evaluation/perplexity.h"
#include "swiftprune/model/text_forwards.h"

namespace swiftprune::test {

inline std::unique_ptr<TextForwards> forwards_of(const Model& model, const Backend& backend,
                                                 const ForwardOptions& options = {}) {
  const Model* models[] = {&model};
  return make_cpu_text_forwards(models, backend, options);
}

inline PerplexityResult perplexity_of(const Model& model, const Backend& backend,
                                      std::span<const ScoredWindows> parts) {
  return perplexity(model, *forwards_of(model, backend), parts, {});
}

inline PairedBlocksMaker pairs_of(const Model& dense, const Model& pruned, const Backend& backend) {
  return [&](TokenWindows windows) {
    return make_cpu_paired_blocks(dense, pruned, backend, std::move(windows), ComputeType::kF32);
  };
}

}  // namespace swiftprune::test
