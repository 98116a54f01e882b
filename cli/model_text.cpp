#include "model_text.h"

#include <fmt/format.h>

#include "swiftprune/core/error.h"
#include "swiftprune/ranks/launched.h"

namespace swiftprune::cli {
void add_evaluation_flags(CLI::App& command, EvaluationTexts& texts) {
  command.add_option("--text,--ids", texts.files,
                     "Texts: .txt, .jsonl or .json (see --field), each also as .gz or .zst, or token ids as "
                     ".u16 / .u32 (little endian, no header)");
  command.add_option("--field", texts.field, "Member of each .jsonl line that holds the text")
      ->capture_default_str();
  command.add_option("--seqlen", texts.seqlen, "Tokens a window; by default at most the model's positions")
      ->capture_default_str()
      ->each([&texts](const std::string&) { texts.seqlen_given = true; })
      ->check(within(option_values::kSeqlen));
  command.add_option("--windows", texts.windows, "First so many windows of each text (0: all)")
      ->check(within(option_values::kWindows));
  command
      .add_option(
          "--bos", texts.bos,
          "BOS: each (at the start of each window), once (before the whole text, as the published code "
          "of GPTQ, SparseGPT and Wanda has it where the tokenizer adds one), none, or auto (what the "
          "family needs; with --convention llama.cpp what the tokenizer adds)")
      ->capture_default_str()
      ->transform(one_of(option_values::kBos));
  command
      .add_option("--convention", texts.convention,
                  "Which tokens are scored: windows (Hugging Face / GPTQ), llama.cpp (second half of each "
                  "window), strided (every token once, with overlapping windows)")
      ->capture_default_str()
      ->transform(one_of({"windows", "llama.cpp", "strided"}));
  command
      .add_option("--stride", texts.stride,
                  "With strided: tokens from window to window (0: half of --seqlen)")
      ->check(within(option_values::kStride));
}

void add_adapter_flag(CLI::App& command, std::string& adapter) {
  command.add_option(
      "--adapter", adapter,
      "LoRA folder whose low-rank parts stand beside the model's linears: of prune --low-rank, or one that "
      "PEFT wrote");
}

std::unique_ptr<Model> open_model(const CommonOptions& common, const std::string& folder,
                                  const std::string& adapter) {
  auto model = Model::open(folder, adapter);
  print_notes(common, model->notes());
  return model;
}

std::uint64_t weight_bytes(const Model& model) {
  std::uint64_t bytes = 0;
  for (const TensorInfo& tensor : model.checkpoint().tensors())
    bytes += static_cast<std::uint64_t>(tensor.num_bytes());
  if (model.adapter() != nullptr) bytes += static_cast<std::uint64_t>(model.adapter()->num_bytes());
  return bytes;
}

void add_compute_flag(CLI::App& command, std::string& compute) {
  command
      .add_option("--compute", compute,
                  "Precision of the forward's products: f32, bf16, or auto (bf16 where the device has it)" +
                      std::string(compute == "f32" ? "; f32 measures and writes the same on every device, "
                                                     "but for rounding"
                                                   : ""))
      ->capture_default_str()
      ->transform(one_of({"auto", "f32", "bf16"}));
}

void add_device_flags(CLI::App& command, DeviceFlags& flags) {
  command.add_option("--device", flags.device, "cpu, cuda, cuda:N, or auto (a GPU where there is one)")
      ->capture_default_str();
  command.add_option("--gpu-memory", flags.gpu_memory,
                     "Most GPU memory to take, such as 6GB (default: what is free)");
}

void add_load_flags(CLI::App& command, LoadOptions& load) {
  command.add_flag(
      "--prompt-copies", load.prompt_copies,
      "On a GPU, keep second copies of packed weights for long prompts: faster, but more memory than "
      "the dense model takes");
  command.add_flag(
      "--retune", load.retune,
      "Measure anew which form of packed weights is fastest here, in place of earlier measurements");
}

void add_sampler_flags(CLI::App& command, SamplerOptions& sampler) {
  command.add_option("--temperature", sampler.temperature, "0: always the likeliest token (greedy)")
      ->capture_default_str()
      ->check(within(option_values::kTemperature));
  command.add_option("--top-p", sampler.top_p, "Draw from the likeliest tokens that hold this probability")
      ->capture_default_str()
      ->check(within(option_values::kTopP));
}

std::unique_ptr<Device> open_device(const DeviceFlags& flags) {
  DeviceOptions options;
  if (!flags.gpu_memory.empty()) options.memory_bytes = parse_bytes("--gpu-memory", flags.gpu_memory);
  if (const auto launched = launched_rank()) options.gpu = launched->gpu;  // a rank a GPU
  if (!flags.gpu_memory.empty() && flags.device == "cpu")
    bad_usage("--gpu-memory: found {}, but --device cpu uses no GPU; add --device cuda or auto",
              flags.gpu_memory);
  return swiftprune::open_device(flags.device, options);
}

}  // namespace swiftprune::cli
