#include "swiftprune/model/family_table.h"

namespace swiftprune {
namespace {

constexpr std::string_view kAll = "mlp heads layers", kFixedHeads = "mlp layers", kExperts = "experts";

// Order: that of all_families().
constexpr FamilyRow kRows[] = {
    {"llama", "Llama 1 to 3.3, SmolLM 1 and 2, Falcon 3, TinyLlama, Yi", kAll, true, "SmolLM2-135M"},
    {"mistral", "Mistral 7B, Nemo, Small 3, Large", kAll, true},
    {"qwen2", "Qwen 2, Qwen 2.5; text of Qwen2-VL and Qwen2.5-VL", kAll, true},
    {"qwen3", "Qwen 3; text of Qwen3-VL", kAll, true},
    {"gemma", "Gemma 1", kAll, true},
    {"gemma2", "Gemma 2", kAll, true},
    {"gemma3", "Gemma 3, with vision too", kAll, true, "Gemma 3 270M"},
    {"gemma4", "Gemma 4 without experts, with vision too", "mlp", true},
    {"gpt_neox", "GPT-NeoX, Pythia", kFixedHeads, true},
    {"phi3", "Phi-3, Phi-3.5, Phi-4, Phi-4-mini", kAll, true},
    {"opt", "OPT but for 350M", kFixedHeads, true},
    {"smollm3", "SmolLM3", kAll, true},
    {"olmo", "OLMo 1", kAll, true},
    {"olmo2", "OLMo 2", kFixedHeads, true},
    {"olmo3", "OLMo 3", kFixedHeads, true},
    {"granite", "Granite 3", kAll, true},
    {"granitemoe", "Granite 3 with experts", kExperts, true},
    {"granitemoehybrid", "Granite 4", "mlp heads layers experts", true},
    {"ministral", "Ministral 8B", kAll, true},
    {"ministral3", "Ministral 3", kAll, true},
    {"exaone4", "EXAONE 4", kAll, true},
    {"glm", "GLM-4-9B", kAll, true},
    {"glm4", "GLM-4-0414", kAll, true},
    {"starcoder2", "StarCoder2", kAll, true},
    {"stablelm", "StableLM 3B, StableLM 2", kFixedHeads, true},
    {"phi", "Phi-1, Phi-1.5, Phi-2", kAll, true},
    {"gptj", "GPT-J", kFixedHeads, true},
    {"cohere", "Command R, Aya 23", kAll, true},
    {"cohere2", "Command R7B, Command A", kFixedHeads, true},
    {"apertus", "Apertus", kAll, true},
    {"nemotron_h", "Nemotron-H, Nemotron Nano 2, Nemotron 3 Nano", kExperts, true},
    {"arcee", "AFM-4.5B", kAll, true},
    {"nemotron", "Nemotron-4, Minitron", kAll, true},
    {"gpt2", "GPT-2", kFixedHeads, true},
    {"bloom", "BLOOM", "layers", true},
    {"mpt", "MPT", "layers", true},
    {"lfm2", "LFM2", kFixedHeads, true},
    {"lfm2_moe", "LFM2-8B-A1B", kExperts, true},
    {"falcon_h1", "Falcon-H1", kFixedHeads, true},
    {"qwen3_5", "Qwen 3.5 and 3.6, with vision too", kFixedHeads, true},
    {"qwen3_5_moe", "Qwen 3.5 and 3.6 with experts", kExperts, true},
    {"qwen3_next", "Qwen3-Next", kExperts, true},
    {"qwen2_moe", "Qwen1.5-MoE, Qwen2-57B-A14B", kExperts, true},
    {"qwen3_moe", "Qwen3-30B-A3B, Qwen3-235B-A22B", kExperts, true},
    {"mixtral", "Mixtral", kExperts, true},
    {"olmoe", "OLMoE", kExperts, true},
    {"glm4_moe", "GLM-4.5, GLM-4.6", kExperts, true},
    {"gpt_oss", "gpt-oss", kExperts, true},
    {"deepseek_v2", "DeepSeek-V2", kExperts, true},
    {"deepseek_v3", "DeepSeek-V3, DeepSeek-R1, Kimi K2", kExperts, true},
};

}  // namespace

std::span<const FamilyRow> family_rows() { return kRows; }

}  // namespace swiftprune
