#include <memory>

#include "command.h"
#include "swiftprune/checkpoint/checkpoint_writer.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/temporary_folder.h"
#include "swiftprune/pilot/trial.h"
#include "swiftprune/pipeline/fuse_experts.h"
#include "swiftprune/sparse/packed_checkpoint.h"

namespace swiftprune::cli {
namespace {

// Of a model that swiftprune computes with.
bool wants_fused_experts(const Checkpoint& source) {
  try {
    return can_fuse_experts(source);
  } catch (const Error&) {
    return false;
  }
}

struct UnpackFlags {
  CommonOptions common;
  std::string model, out;
};

// Some families' code wants all experts of a block in one tensor; unpacked ones have tensors of their own at first.
void unpack(const Checkpoint& source, const std::filesystem::path& out, const ProgressFn& progress) {
  if (!wants_fused_experts(source)) return unpack_checkpoint(source, out, progress);
  if (!has_packed_tensors(source)) return fuse_experts(source, out, progress);  // MXFP4
  check_new_folder(out);
  const std::filesystem::path separate =
      std::filesystem::absolute(out).parent_path() /
      fmt::format(".{}.separate", std::filesystem::absolute(out).filename().string());
  std::filesystem::remove_all(separate);
  const TemporaryFolder goes(separate);
  unpack_checkpoint(source, separate, progress);
  fuse_experts(Checkpoint::open(separate), out, progress);
}

void run(const UnpackFlags& options) {
  const RunScope job = apply(options.common);
  check_outside("--out", options.out, options.model);
  const Checkpoint source = Checkpoint::open(options.model);
  unpack(source, options.out, job.context().progress);
  if (options.common.json) {
    print_json({{"out", options.out}, {"tensors", source.tensors().size()}});
  } else {
    fmt::print("{}: {} tensors\n", options.out, source.tensors().size());
  }
}

}  // namespace

void declare_unpack(CLI::App& program) {
  auto options = std::make_shared<UnpackFlags>();
  CLI::App* command = program.add_subcommand(
      "unpack", "Turn a packed model, or one with experts in MXFP4, into a dense Hugging Face folder");
  add_model_argument(*command, options->common, "MODEL", options->model, "Packed model folder")->required();
  command->add_option("-o,--out", options->out, "New folder for the dense model")->required();
  add_common_options(*command, options->common);
  command->footer("Example: swiftprune unpack pruned-packed --out pruned");
  command->callback([options] { run_writing(options->out, [&] { run(*options); }); });
}

}  // namespace swiftprune::cli
