#include "swiftprune/pipeline/method.h"

#include <array>

#include "swiftprune/core/error.h"

namespace swiftprune {

std::string_view name_of(Propagation propagation) {
  return propagation == Propagation::kPruned ? "pruned" : "dense";
}

std::span<const Method> methods() {
  using enum Propagation;
  const auto method = [](std::string_view name, std::string_view score, std::string_view n_m_score,
                         std::string_view refine, int windows, int gpu_windows, Propagation propagation,
                         bool allocates, std::string_view summary, std::string_view source) {
    return Method{name,
                  parse_score(score),
                  parse_score(n_m_score),
                  kDefaultSelector,
                  parse_refine(refine),
                  windows,
                  gpu_windows,
                  propagation,
                  allocates,
                  summary,
                  source};
  };
  // Windows of text on a processor, on a GPU: `best` gains 3 % from four times the text, which costs a GPU a third of a
  // second where a processor takes minutes (docs/evaluation.md); what was published keeps its own number.
  static const std::array kMethods = {
      method("best", "wanda", "wanda", "aligned-admm(20,15)", 16, 64, kPruned, true,
             "mask and weights found together by ADMM, led back to the dense model's outputs layer by layer",
             "this project; arXiv 2401.02938, arXiv 2406.07831"),
      method("fast", "contribution", "ria(0.7)", "none", 1, 1, kDense, false,
             "Wanda's quality from one window of text and one forward", "this project"),
      method("frozen", "contribution", "contribution", "swaps(50)", 16, 16, kPruned, false,
             "only the mask is refined; kept weights stay as they are", "this project"),
      method("paper", "paper", "paper", "none", 16, 16, kPruned, false,
             "SwiftPrune's contribution score as published", "arXiv 2501.16376"),
      method("magnitude", "magnitude", "magnitude", "none", 0, 0, kDense, false,
             "smallest weights, without calibration", "LeCun et al. 1989; Han et al. 2015"),
      method("random", "random", "random", "none", 0, 0, kDense, false, "random weights: the floor", ""),
      method("wanda", "wanda", "wanda", "none", 128, 128, kPruned, false,
             "weight times the norm of its input", "arXiv 2306.11695"),
      method("contribution", "contribution", "contribution", "none", 16, 16, kPruned, false,
             "loss change of zeroing a weight, EWMA over the calibration windows", "this project"),
      method("ria", "ria(0.5)", "ria(0.5)", "none", 128, 128, kPruned, false,
             "relative importance and activations", "Zhang et al., ICLR 2024"),
      method("stade", "stade", "stade", "none", 128, 128, kPruned, false,
             "weight times the standard deviation of its input", "arXiv 2503.22451"),
      method("obs", "obs", "obs", "pcg(20)", 16, 16, kPruned, false,
             "Optimal Brain Surgeon's score, kept weights refitted", "Hassibi and Stork 1993"),
      method("sparsegpt", "obs", "obs", "sparsegpt", 128, 128, kPruned, false, "the Hessian baseline",
             "arXiv 2301.00774"),
      method("rtn", "magnitude", "magnitude", "rtn", 0, 0, kDense, false,
             "smallest weights, the others to the nearest values of the grid (--quantize)", ""),
      method("gptq", "wanda", "wanda", "gptq", 128, 128, kPruned, false,
             "the mask of wanda, then column by column to the grid (--quantize)", "arXiv 2210.17323"),
  };
  return kMethods;
}

const Method& method_by_name(std::string_view name) {
  std::string known;
  for (const Method& method : methods()) {
    if (method.name == name) return method;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", method.name);
  }
  bad_usage("--method: found '{}', expected one of {}", name, known);
}

}  // namespace swiftprune
