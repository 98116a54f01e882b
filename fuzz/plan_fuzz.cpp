// Arbitrary bytes as a plan, as the journal of an unfinished run, as a record of a pruned folder, or as settings of
// --override, chosen by the first byte.
#include <sstream>

#include "fuzz_folder.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/json.h"
#include "swiftprune/pipeline/journal.h"
#include "swiftprune/pipeline/plan.h"
#include "swiftprune/report/prune_record.h"

namespace {

using namespace swiftprune;

// Of a model as it might be; nothing of it is read.
Plan plan_to_change() {
  Plan plan;
  for (const char* name : {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
                           "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}) {
    PlanEntry entry;
    entry.tensor = std::string("model.layers.0.") + name + ".weight";
    entry.rows = 24;
    entry.cols = 64;
    plan.entries.push_back(entry);
  }
  return plan;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string text(fuzz::text(data + 1, size - 1));
  Plan plan = plan_to_change();
  try {
    switch (data[0] % 4) {
      case 0:
        apply_plan(parse_json(text, "plan.json"), "plan.json", plan);
        to_json(plan).dump();
        break;
      case 1: {
        std::istringstream lines(text);
        if (const auto run = read_journal(lines)) journal_text(*run);
        break;
      }
      case 2:
        fuzz::write("swiftprune.json", text);
        read_prune_record(fuzz::folder());
        break;
      default:
        apply_override("*", text, plan);
    }
  } catch (const Error&) {
  }
  return 0;
}
