#include "swiftprune/checkpoint/model_card.h"

#include <algorithm>
#include <array>
#include <set>
#include <sstream>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "swiftprune/checkpoint/checkpoint.h"
#include "swiftprune/checkpoint/checkpoint_writer.h"
#include "swiftprune/checkpoint/model_location.h"
#include "swiftprune/checkpoint/output_file.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/json.h"
#include "swiftprune/core/read_file.h"

namespace swiftprune {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr std::string_view kFence = "---\n";
constexpr std::string_view kNotMeasured = "Not measured yet.";
constexpr double kNoticeable = 0.005;  // of the weights

// Records may be of another version, or of somebody else.
std::string text_of(const Json& object, const char* key) {
  if (!object.is_object() || !object.contains(key) || !object[key].is_string()) return "";
  return object[key].get<std::string>();
}
double number_of(const Json& object, const char* key) {
  return object.is_object() && object.contains(key) && object[key].is_number() ? object[key].get<double>()
                                                                               : 0.0;
}
const Json& child_of(const Json& object, const char* key) {
  static const Json kNone;
  return object.is_object() && object.contains(key) ? object[key] : kNone;
}

// "license: mit\n", lists with their lines; of the card's front matter.
std::string front_matter_of(std::string_view card, std::string_view key) {
  if (!card.starts_with(kFence)) return "";
  card = card.substr(kFence.size());
  card = card.substr(0, card.find("\n---"));
  std::istringstream lines{std::string(card)};
  std::string found;
  bool inside = false;
  for (std::string line; std::getline(lines, line);) {
    if (line.empty() || line.front() == '#') continue;
    const bool goes_on = line.front() == ' ' || line.front() == '-';
    if (!goes_on) inside = line.starts_with(std::string(key) + ":");
    if (inside) found += line + "\n";
  }
  return found;
}

std::set<std::string> values_of_tensors(const Json& record, const char* key) {
  std::set<std::string> values;
  const Json& tensors = child_of(record, "tensors");
  if (!tensors.is_array()) return values;
  for (const Json& tensor : tensors) {
    if (std::string value = text_of(tensor, key); !value.empty()) values.insert(std::move(value));
  }
  return values;
}

std::string pattern_of(const Json& record) {
  const std::set<std::string> patterns = values_of_tensors(record, "pattern");
  if (patterns.size() != 1) return "several patterns";
  return *patterns.begin() == "row" ? "unstructured" : *patterns.begin();
}

// "50 % zeros (2:4)", "int4", "11 % fewer parameters": of one step.
std::string what_was_done(const Json& record) {
  std::vector<std::string> parts;
  const Json& parameters = child_of(record, "parameters");
  const double before = number_of(parameters, "dense"), after = number_of(parameters, "shrunk");
  if (before > 0.0 && after < before) {
    parts.push_back(fmt::format("{:.0f} % fewer parameters", 100.0 * (1.0 - after / before)));
  } else if (number_of(record, "asked_sparsity") > kNoticeable) {
    parts.push_back(
        fmt::format("{:.0f} % zeros ({})", 100.0 * number_of(record, "sparsity"), pattern_of(record)));
  }
  const std::set<std::string> grids = values_of_tensors(record, "quantize");
  if (!grids.empty()) parts.push_back(fmt::format("{}", fmt::join(grids, ", ")));
  if (parts.empty()) parts.push_back(text_of(record, "method"));
  return fmt::format("{}", fmt::join(parts, ", "));
}

std::string calibration_of(const Json& record) {
  const Json& calibration = child_of(record, "calibration");
  const double windows = number_of(calibration, "windows");
  if (windows == 0.0) return "";
  const std::string source = text_of(calibration, "source");
  return fmt::format(
      ", calibrated on {:.0f} windows of {:.0f} tokens {}", windows, number_of(calibration, "seqlen"),
      source == "self" ? "that the model wrote itself" : "of " + fs::path(source).filename().string());
}

std::string sentence_of(const Json& record) {
  const Json& command = child_of(child_of(record, "command"), "arguments");
  const bool has_name = command.is_array() && command.size() > 1 && command[1].is_string();
  const std::string method = text_of(record, "method");
  return fmt::format("`{}`{}: {}{}", has_name ? command[1].get<std::string>() : "prune",
                     method.empty() || method == "shrink" ? "" : fmt::format(", method `{}`", method),
                     what_was_done(record), calibration_of(record));
}

// Oldest first.
std::vector<const Json*> steps_of(const Json& record) {
  std::vector<const Json*> steps;
  for (const Json* step = &record; step->is_object() && !step->empty(); step = &child_of(*step, "previous"))
    steps.push_back(step);
  std::ranges::reverse(steps);
  return steps;
}

std::string usage_text(bool packed) {
  if (!packed) {
    return "An ordinary checkpoint, in which some weights are zero or channels are fewer: every program that "
           "loads the base "
           "model's architecture loads it.\n```python\nimport transformers\n\nmodel = "
           "transformers.AutoModelForCausalLM.from_pretrained(FOLDER_OR_ID)\ntokenizer = "
           "transformers.AutoTokenizer.from_pretrained(FOLDER_OR_ID)\n```\nZeros take no memory and less "
           "time behind "
           "`swiftprune pack FOLDER --out SMALL`.\n";
  }
  return "Stored without its zeros, for swiftprune's own runtime; other programs refuse it (`swiftprune "
         "unpack FOLDER --out "
         "DENSE` makes an ordinary folder).\n```\nswiftprune chat FOLDER_OR_ID\nswiftprune serve "
         "FOLDER_OR_ID --port "
         "8080\n```\n```python\nimport swiftprune\n\nmodel = swiftprune.to_transformers(FOLDER_OR_ID)  # "
         "inside "
         "transformers\n```\n";
}

std::string front_matter(const std::string& base_id, std::string_view base_card, bool quantized,
                         bool packed) {
  std::string text(kFence);
  const std::string known = front_matter_of(base_card, "base_model");
  if (!base_id.empty()) {
    text += fmt::format("base_model: {}\n", base_id);
  } else {
    text += known.empty() ? "# base_model: ORG/NAME of the dense model\n" : known;
  }
  if (quantized) text += "base_model_relation: quantized\n";
  for (const char* key : {"license", "license_name", "license_link", "language"})
    text += front_matter_of(base_card, key);
  text += fmt::format("library_name: {}\npipeline_tag: text-generation\ntags:\n- swiftprune\n- {}\n",
                      packed ? "swiftprune" : "transformers", quantized ? "quantized" : "pruned");
  return text + std::string(kFence);
}

bool is_ours(std::string_view card) {
  return front_matter_of(card, "tags").find("- swiftprune\n") != std::string::npos;
}

std::string bytes_of(const fs::path& file) {
  std::error_code ignored;
  return fs::is_regular_file(file, ignored) ? file_bytes(file) : std::string();
}

// What the text says of the dense model.
struct Base {
  std::string id;    // of the Hub, where it is known
  std::string name;  // in the title
  std::string link;  // in the text
};

// Of a card's text behind its front matter: what stands between these, or from the first one to the end; "" without it.
std::string between(std::string_view card, std::string_view before, std::string_view after) {
  card.remove_prefix(std::min(card.size(), card.find("\n---\n")));
  const std::size_t at = card.find(before);
  if (at == std::string_view::npos) return "";
  card.remove_prefix(at + before.size());
  std::string found(card.substr(0, card.find(after)));
  while (found.ends_with('\n')) found.pop_back();
  return found;
}

// Of a card of ours.
std::int64_t num_steps_of(std::string_view card) {
  const std::string steps = between(card, "\n## What was done\n", "\n\n");
  return steps.empty() ? 0 : std::count(steps.begin(), steps.end(), '\n') + 1;
}

Base base_of(const fs::path& folder, std::string_view card) {
  if (is_ours(card)) {  // a second step: the first one's card knows the dense model
    Base base{"", between(card, "\n# ", ", "), ""};
    const std::string made = between(card, "\nMade by swiftprune", "\n");
    if (const std::size_t at = made.find(" of "); at != std::string::npos && made.ends_with('.'))
      base.link = made.substr(at + 4, made.size() - at - 5);
    if (!base.name.empty() && !base.link.empty()) return base;
  }
  const std::string id = model_id(folder);
  const std::string name = model_name(folder);
  return {id, name,
          id.empty() ? fmt::format("`{}`", name) : fmt::format("[{0}](https://huggingface.co/{0})", id)};
}

}  // namespace

Json record_beside(const Checkpoint& source) {
  const fs::path file = source.folder() / "swiftprune.json";
  std::error_code ignored;
  if (!fs::exists(file, ignored)) return {};
  try {
    Json record = read_json_file(file);
    return record.is_object() ? record : Json();
  } catch (const Error&) {  // the card does without
    return {};
  }
}

void write_model_card(const Checkpoint& source, const Json& record, bool packed, CheckpointWriter& writer) {
  const std::string card = bytes_of(source.folder() / kModelCardFile);
  const Base base = base_of(source.folder(), card);
  bool quantized = false;
  std::string steps, last;
  std::int64_t number = 0;
  for (const Json* step : steps_of(record)) {
    quantized |= !values_of_tensors(*step, "quantize").empty();
    last = ", " + what_was_done(*step);
    steps += fmt::format("{}. {}\n", ++number, sentence_of(*step));
  }
  std::string text = front_matter(base.id, card, quantized, packed);
  text += fmt::format("\n# {}{}{}\n\n", base.name, last, packed ? ", packed" : "");
  text += fmt::format("Made by swiftprune {} of {}.\n", SWIFTPRUNE_VERSION, base.link);
  if (!steps.empty()) {
    text += fmt::format(
        "\n## What was done\n{}\n`swiftprune.json` holds what is needed to repeat it, and what it cost each "
        "block.\n",
        steps);
  }
  text += fmt::format("\n## Use\n{}\n## Quality\n", usage_text(packed));
  const std::string measured = is_ours(card) ? between(card, "\n## Quality\n", "\n\n") : "";
  text += measured.empty() || measured.starts_with(kNotMeasured) || number != num_steps_of(card)
              ? fmt::format("{} `swiftprune compare BASE FOLDER --text own.txt --report out.html` does.\n",
                            kNotMeasured)
              : measured + "\n";
  if (!is_ours(card) && !card.empty()) writer.write_file(kBaseCardFile, card);
  std::error_code ignored;
  if (!card.empty() && (!is_ours(card) || fs::exists(source.folder() / kBaseCardFile, ignored))) {
    text += fmt::format("\nThe base model's own card is [{0}]({0}); its licence and limits hold here, too.\n",
                        kBaseCardFile);
  }
  writer.write_file(kModelCardFile, text);
}

void add_measured_quality(const fs::path& folder, std::string_view measured) {
  const fs::path file = folder / kModelCardFile;
  std::string card = bytes_of(file);
  const std::size_t at = card.find(kNotMeasured);
  if (at == std::string::npos) return;
  const std::size_t end = card.find('\n', at);
  card.replace(at, end == std::string::npos ? end : end - at, measured);
  const fs::path unfinished = folder / fmt::format(".{}.part", kModelCardFile);
  write_whole(unfinished, card);
  fs::rename(unfinished, file);
}

}  // namespace swiftprune
