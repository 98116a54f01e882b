#include "model_text.h"

#include <filesystem>

#include "swiftprune/core/error.h"

namespace swiftprune::cli {

bool holds_ids(const std::string& file) {
  const std::string extension = std::filesystem::path(file).extension();
  return extension == ".u16" || extension == ".u32";
}

void add_evaluation_flags(CLI::App& command, EvaluationText& text) {
  command.add_option("--field", text.field, "Member of each .jsonl line that holds the text")
      ->capture_default_str();
  command.add_option("--seqlen", text.seqlen, "Tokens a window")
      ->capture_default_str()
      ->check(CLI::Range(2, 1 << 24));
  command.add_option("--windows", text.windows, "First so many windows (0: all)")
      ->check(CLI::NonNegativeNumber);
  command
      .add_option("--bos", text.bos,
                  "A BOS at the start of each window: each, none, or auto (what the family needs)")
      ->capture_default_str()
      ->check(CLI::IsMember({"auto", "each", "none"}));
}

TokenWindows evaluation_windows(const Model& model, const EvaluationText& text) {
  model.check_length(text.seqlen, "--seqlen");
  WindowOptions options;
  options.seqlen = text.seqlen;
  if (text.windows > 0) options.max_windows = text.windows;
  if (holds_ids(text.file)) {
    return windows_of_ids(read_token_ids(text.file, model.config().vocab_size), text.file, options);
  }
  const auto tokenizer = Tokenizer::open(model.checkpoint().folder());
  options.bos_each_window = text.bos == "each" || (text.bos == "auto" && model.config().needs_bos);
  return windows_of_text(*tokenizer, read_corpus(text.file, text.field), options);
}

std::int32_t first_token(const Model& model) {
  const std::filesystem::path& folder = model.checkpoint().folder();
  if (std::filesystem::exists(folder / "tokenizer.json") ||
      std::filesystem::exists(folder / "tokenizer.model")) {
    const auto tokenizer = Tokenizer::open(folder);
    if (tokenizer->bos()) return *tokenizer->bos();
    if (tokenizer->eos()) return *tokenizer->eos();
  }
  for (const char* key : {"bos_token_id", "eos_token_id"}) {
    const auto it = model.checkpoint().config().find(key);
    if (it == model.checkpoint().config().end() || !it->is_number_integer()) continue;
    const std::int64_t id = it->get<std::int64_t>();
    if (id >= 0 && id < model.config().vocab_size) return static_cast<std::int32_t>(id);
  }
  return 0;
}

ComputeType parse_compute(const std::string& name, const Backend& backend, const cuda::DeviceChoice& device) {
  if (name == "auto") {
    return device.use_cuda || backend.has_fast_bf16() ? ComputeType::kBF16 : ComputeType::kF32;
  }
  return name == "bf16" ? ComputeType::kBF16 : ComputeType::kF32;
}

void add_compute_flag(CLI::App& command, std::string& compute) {
  command
      .add_option("--compute", compute,
                  "Precision of the forward's products: f32, bf16, or auto (bf16 where the processor has it)")
      ->capture_default_str()
      ->check(CLI::IsMember({"auto", "f32", "bf16"}));
}

void add_device_flags(CLI::App& command, DeviceFlags& flags) {
  command.add_option("--device", flags.device, "cpu, cuda, cuda:N, or auto (a GPU where there is one)")
      ->capture_default_str();
  command.add_option("--gpu-memory", flags.gpu_memory,
                     "Most GPU memory to take, such as 6GB (default: what is free)");
}

cuda::DeviceOptions device_options(const cuda::DeviceChoice& choice, const DeviceFlags& flags) {
  cuda::DeviceOptions options;
  options.index = choice.index;
  if (!flags.gpu_memory.empty()) options.memory_bytes = parse_bytes("--gpu-memory", flags.gpu_memory);
  return options;
}

}  // namespace swiftprune::cli
