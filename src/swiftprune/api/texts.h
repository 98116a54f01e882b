// Texts that a model is measured on, as a person asks for them, and the windows that they mean for a model.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "swiftprune/api/job.h"
#include "swiftprune/evaluation/scored_windows.h"
#include "swiftprune/model/model.h"
#include "swiftprune/report/comparison.h"
#include "swiftprune/text/tokenizer.h"

namespace swiftprune {

struct EvaluationTexts {
  std::vector<std::string> files;  // .txt, .jsonl, .json, each also .gz and .zst; token ids: .u16, .u32
  std::string field = "text";      // of each line of .jsonl
  std::int64_t seqlen = 2048;
  bool seqlen_given = false;           // else the model's positions bound it
  std::int64_t windows = 0;            // of each text; 0: all
  std::string bos = "auto";            // "each", "once", "none", "auto": as the convention has it
  std::string convention = "windows";  // "llama.cpp", "strided": docs/evaluation.md
  std::int64_t stride = 0;             // of "strided"; 0: half of seqlen
};

// Throws Error{kUsage} for what no text can be cut into.
void check_values(const EvaluationTexts& texts);
// The model's tokenizer; null when the folder has none and every file holds token ids.
std::unique_ptr<Tokenizer> evaluation_tokenizer(const Model& model, const std::vector<std::string>& files);
// The windows that the texts mean for this model; tokenizer may be null.
ConventionOptions convention_options(const Model& model, const Tokenizer* tokenizer,
                                     const EvaluationTexts& texts);
// Reads every text into the comparison's windows; one text after the other.
void read_texts(const Model& dense, const EvaluationTexts& texts, const NoteFn& note, ComparisonInput& input);
// A default number of positions, cut to those that the model has.
std::int64_t usual_length(const Model& model, std::int64_t num_positions);

}  // namespace swiftprune
