// The low-rank parts of a plan as a LoRA folder of PEFT inside the new model's folder (model/adapter.h): transformers and
// peft load the model and, beside it, the adapter, and get S + L. The tensors are planned with the model's own, so that one
// writer places, syncs, resumes and renames all of them.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "swiftprune/checkpoint/checkpoint_writer.h"
#include "swiftprune/model/model.h"
#include "swiftprune/pipeline/plan.h"

namespace swiftprune {

// "model.layers.0.mlp.up_proj" of "model.layers.0.mlp.up_proj.weight".
std::string linear_of(std::string_view tensor);

// Throws Error{kUsage} for low-rank parts in a model for whose linears there is no such folder, or whose inputs change
// places.
void check_low_rank_plan(const Plan& plan, const Model& model);

// Both factors of each part, in the dtype of its weight. Nothing for a plan without them.
std::vector<PlannedTensor> plan_adapter(const Checkpoint& source, const Plan& plan);
// adapter_config.json. base: the folder of the model that it stands beside.
std::string adapter_config(const Model& model, const Plan& plan, const std::string& base);

}  // namespace swiftprune
