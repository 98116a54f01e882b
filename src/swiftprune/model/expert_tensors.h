// The weights of a block's experts in the file, in any of the forms that there are:
//   separate  {prefix}{e}.gate_proj.weight, up_proj, down_proj, as a linear's
//   fused     {prefix}gate_up_proj [E, 2I, hidden] (gate over up) and {prefix}down_proj [E, hidden, I]
//   by input  the same transposed, [E, hidden, 2I] with gate and up in turn, and [E, I, hidden] (gpt-oss)
//   mxfp4     {prefix}gate_up_proj_blocks [E, 2I, hidden/32, 16] and _scales [E, 2I, hidden/32]: 4-bit floats (two a
//             byte, the lower half first) times 2^(scale - 127), rows of gate and up in turn; down_proj likewise
// Experts without gates (Nemotron-H) have no gate_proj, and only the separate form; another family may call its fused
// tensors otherwise (ExpertsConfig::fused). Fused forms with biases have {prefix}gate_up_proj_bias [E, 2I] and {prefix}down_proj_bias [E, hidden]; so may the
// separate form, where it came from a fused one (packed models).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "swiftprune/checkpoint/checkpoint.h"
#include "swiftprune/model/block_linear.h"
#include "swiftprune/model/model_config.h"

namespace swiftprune {

enum class ExpertForm { kSeparate, kFused, kFusedByInput, kMxfp4 };
std::string_view name_of(ExpertForm form);

enum class ExpertPart { kGate, kUp, kDown };
inline constexpr ExpertPart kExpertParts[] = {ExpertPart::kGate, ExpertPart::kUp, ExpertPart::kDown};
// Those that the experts have, in the order in which they are computed.
inline std::span<const ExpertPart> parts_of(const ExpertsConfig& experts) {
  return std::span(kExpertParts).subspan(experts.gated ? 0 : 1);
}

// The linear by the name and shape that it has as a tensor of its own.
LinearTensors expert_linear(const ExpertsConfig& experts, std::int64_t hidden_size, std::int64_t expert,
                            ExpertPart part);

// The same without down: those whose rows make the inner channels.
inline std::span<const ExpertPart> inner_parts_of(const ExpertsConfig& experts) {
  return parts_of(experts).first(parts_of(experts).size() - 1);
}

class ExpertTensors {
 public:
  // Finds the form and checks names and shapes. Throws Error{kBadInput} naming the tensor. `checkpoint` must
  // outlive this.
  ExpertTensors(const Checkpoint& checkpoint, const ExpertsConfig& experts, std::int64_t hidden_size);

  ExpertForm form() const { return form_; }
  const ExpertsConfig& experts() const { return experts_; }
  // One linear of one expert, converted; whatever the form, as if it were separate.
  BlockLinear load(std::int64_t expert, ExpertPart part, WeightUse use) const;
  // Of a linear's values as they are kept in the file; of mxfp4 BF16, which holds them exactly. Not of packed ones.
  DType dtype(std::int64_t expert, ExpertPart part) const;
  // All tensors of all experts.
  const std::vector<std::string>& names() const { return names_; }
  // Those that hold weights (of mxfp4: blocks and scales), not biases.
  const std::vector<std::string>& weight_names() const { return weight_names_; }
  // A linear's values [O, I] in dtype(): as the file has them where they lie in one piece there, else in `own`.
  std::span<const std::byte> bytes(std::int64_t expert, ExpertPart part, std::vector<std::byte>& own) const;
  // The separate form's tensors of one expert, in the same order for each.
  std::vector<std::string> names_of(std::int64_t expert) const;
  // The expert's own pages are not needed for now; pages of fused tensors stay until all experts were used.
  void release(std::int64_t expert) const;

  // Where a part of an expert lies in a tensor of numbers: element (o, i) of [O, I] at first + o·row + i·column.
  struct Place {
    std::string tensor;
    std::int64_t first = 0, row = 0, column = 1;
  };
  // Not of mxfp4.
  Place place(std::int64_t expert, ExpertPart part) const { return place(expert, part, experts_.width); }
  // The same where the experts have so many channels.
  Place place(std::int64_t expert, ExpertPart part, std::int64_t width) const;
  std::int64_t outputs(ExpertPart part) const;
  std::int64_t inputs(ExpertPart part) const;
  std::string bias_name(std::int64_t expert, ExpertPart part) const;  // empty: none
  // [O], or nothing where the experts have none
  std::vector<float> load_bias(std::int64_t expert, ExpertPart part) const;

 private:
  std::string linear_name(std::int64_t expert, ExpertPart part) const;
  std::string fused_name(ExpertPart part) const;
  void check_separate();
  void check_fused();
  void check_mxfp4();
  void check_fused_biases();
  void check(const std::string& name, const std::vector<std::int64_t>& shape, bool numbers);
  std::vector<std::uint16_t> mxfp4_bits(std::int64_t expert, ExpertPart part) const;

  const Checkpoint& checkpoint_;
  const ExpertsConfig& experts_;
  std::int64_t hidden_;
  ExpertForm form_ = ExpertForm::kSeparate;
  bool fused_biases_ = false;
  std::vector<std::string> names_, weight_names_;
};

}  // namespace swiftprune
