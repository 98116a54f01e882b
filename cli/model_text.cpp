#include "model_text.h"

#include <algorithm>
#include <filesystem>

#include <fmt/format.h>

#include "swiftprune/core/error.h"
#include "swiftprune/evaluation/evaluation_text.h"
#include "swiftprune/ranks/launched.h"

namespace swiftprune::cli {
namespace {

// What each window starts with.
std::optional<std::int32_t> window_bos(const Model& model, const Tokenizer* tokenizer, const std::string& bos,
                                       Convention convention) {
  if (bos == "none") return std::nullopt;
  const auto id = tokenizer == nullptr ? std::nullopt : tokenizer->bos();
  if (bos == "auto") {
    if (convention == Convention::kLlamaCpp) {
      const auto added = tokenizer == nullptr ? std::vector<std::int32_t>{} : tokenizer->encode("");
      return !added.empty() && id == added.front() ? id : std::nullopt;
    }
    if (!model.config().needs_bos) return std::nullopt;
  }
  if (!id) {
    bad_input("{}: windows, or the text, are to start with BOS (--bos {}), but the tokenizer has none",
              model.checkpoint().folder().string(), bos);
  }
  return id;
}

}  // namespace

void add_evaluation_flags(CLI::App& command, EvaluationFlags& flags) {
  command.add_option("--text,--ids", flags.files,
                     "Texts: .txt, .jsonl or .json (see --field), each also as .gz or .zst, or token ids as "
                     ".u16 / .u32 (little endian, no header)");
  command.add_option("--field", flags.field, "Member of each .jsonl line that holds the text")
      ->capture_default_str();
  command.add_option("--seqlen", flags.seqlen, "Tokens a window; by default at most the model's positions")
      ->capture_default_str()
      ->each([&flags](const std::string&) { flags.seqlen_given = true; })
      ->check(CLI::Range(2, 1 << 24));
  command.add_option("--windows", flags.windows, "First so many windows of each text (0: all)")
      ->check(zero_or_more());
  command
      .add_option(
          "--bos", flags.bos,
          "BOS: each (at the start of each window), once (before the whole text, as the published code "
          "of GPTQ, SparseGPT and Wanda has it where the tokenizer adds one), none, or auto (what the "
          "family needs; with --convention llama.cpp what the tokenizer adds)")
      ->capture_default_str()
      ->check(CLI::IsMember({"auto", "each", "once", "none"}));
  command
      .add_option("--convention", flags.convention,
                  "Which tokens are scored: windows (Hugging Face / GPTQ), llama.cpp (second half of each "
                  "window), strided (every token once, with overlapping windows)")
      ->capture_default_str()
      ->check(CLI::IsMember({"windows", "llama.cpp", "strided"}));
  command
      .add_option("--stride", flags.stride,
                  "With strided: tokens from window to window (0: half of --seqlen)")
      ->check(zero_or_more());
}

std::unique_ptr<Model> open_model(const CommonOptions& common, const std::string& folder) {
  auto model = Model::open(folder);
  print_notes(common, model->notes());
  return model;
}

std::uint64_t weight_bytes(const Model& model) {
  std::uint64_t bytes = 0;
  for (const TensorInfo& tensor : model.checkpoint().tensors())
    bytes += static_cast<std::uint64_t>(tensor.num_bytes());
  return bytes;
}

std::unique_ptr<Tokenizer> evaluation_tokenizer(const Model& model, const std::vector<std::string>& files) {
  const std::filesystem::path& folder = model.checkpoint().folder();
  const bool has_text =
      std::any_of(files.begin(), files.end(), [](const auto& f) { return !holds_token_ids(f); });
  if (!has_text && !Tokenizer::is_in(folder)) return nullptr;
  return Tokenizer::open(folder);
}

ConventionOptions convention_options(const Model& model, const Tokenizer* tokenizer,
                                     const EvaluationFlags& flags) {
  if (flags.stride > 0 && flags.convention != "strided") {
    bad_usage("--stride: found {} with --convention {}, expected --convention strided", flags.stride,
              flags.convention);
  }
  if (flags.seqlen_given) model.check_length(flags.seqlen, "--seqlen");
  ConventionOptions options;
  options.convention = convention_by_name(flags.convention);
  options.seqlen = usual_length(model, flags.seqlen);
  options.stride = flags.stride;
  options.max_windows = flags.windows;
  options.bos = window_bos(model, tokenizer, flags.bos, options.convention);
  options.bos_once = flags.bos == "once";
  return options;
}

void read_texts(const CommonOptions& common, const Model& dense, const EvaluationFlags& flags,
                ComparisonInput& input) {
  const auto tokenizer = evaluation_tokenizer(dense, flags.files);
  const ConventionOptions convention = convention_options(dense, tokenizer.get(), flags);
  input.convention = label_of(convention);
  double bytes = 0.0, tokens = 0.0;
  bool has_bytes = true;
  for (const std::string& file : flags.files) {
    const EvaluationText text =
        read_evaluation_text(file, flags.field, tokenizer.get(), dense.config().vocab_size);
    print_notes(common, text.notes);
    for (ScoredWindows& part : scored_windows(text.ids, text.name, convention)) {
      const auto scored = static_cast<double>(part.num_scored());
      tokens += scored;
      bytes += scored * text.bytes_per_token.value_or(0.0);
      input.parts.push_back(std::move(part));
    }
    has_bytes = has_bytes && text.bytes_per_token.has_value();
    input.text += (input.text.empty() ? "" : ", ") + text.name;
  }
  if (has_bytes) input.bytes_per_token = bytes / tokens;
}

std::int64_t usual_length(const Model& model, std::int64_t num_positions) {
  return std::min(num_positions, model.config().max_positions);
}

ComputeType parse_compute(const std::string& name, const Device& device) {
  if (name == "auto") return device.default_compute();
  return name == "bf16" ? ComputeType::kBF16 : ComputeType::kF32;
}

void add_compute_flag(CLI::App& command, std::string& compute) {
  command
      .add_option("--compute", compute,
                  "Precision of the forward's products: f32, bf16, or auto (bf16 where the device has it)")
      ->capture_default_str()
      ->check(CLI::IsMember({"auto", "f32", "bf16"}));
}

void add_device_flags(CLI::App& command, DeviceFlags& flags) {
  command.add_option("--device", flags.device, "cpu, cuda, cuda:N, or auto (a GPU where there is one)")
      ->capture_default_str();
  command.add_option("--gpu-memory", flags.gpu_memory,
                     "Most GPU memory to take, such as 6GB (default: what is free)");
}

void add_compact_flag(CLI::App& command, bool& compact) {
  command.add_flag("--compact", compact,
                   "Keep only packed weights in GPU memory; long prompts then take longer");
}

void add_sampler_flags(CLI::App& command, SamplerOptions& sampler) {
  command.add_option("--temperature", sampler.temperature, "0: always the likeliest token (greedy)")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 100.0));
  command.add_option("--top-p", sampler.top_p, "Draw from the likeliest tokens that hold this probability")
      ->capture_default_str()
      ->check(CLI::Range(1e-6, 1.0));
}

std::unique_ptr<Device> open_device(const DeviceFlags& flags) {
  DeviceOptions options;
  if (!flags.gpu_memory.empty()) options.memory_bytes = parse_bytes("--gpu-memory", flags.gpu_memory);
  if (const auto launched = launched_rank()) options.gpu = launched->gpu;  // a rank a GPU
  return swiftprune::open_device(flags.device, options);
}

}  // namespace swiftprune::cli
