#include <memory>

#include "command.h"
#include "swiftprune/sparse/packed_checkpoint.h"

namespace swiftprune::cli {
namespace {

struct Options {
  CommonOptions common;
  std::string model, out;
};

void run(const Options& options) {
  const RunScope job = apply(options.common);
  check_outside("--out", options.out, options.model);
  const Checkpoint source = Checkpoint::open(options.model);
  unpack_checkpoint(source, options.out, job.context().progress);
  if (options.common.json) {
    print_json({{"out", options.out}, {"tensors", source.tensors().size()}});
  } else {
    fmt::print("{}: {} tensors\n", options.out, source.tensors().size());
  }
}

}  // namespace

void declare_unpack(CLI::App& program) {
  auto options = std::make_shared<Options>();
  CLI::App* command =
      program.add_subcommand("unpack", "Turn a packed model back into a dense Hugging Face folder");
  add_model_argument(*command, options->common, "MODEL", options->model, "Packed model folder")->required();
  command->add_option("-o,--out", options->out, "New folder for the dense model")->required();
  add_common_options(*command, options->common);
  command->footer("Example: swiftprune unpack pruned-packed --out pruned");
  command->callback([options] { run_writing(options->out, [&] { run(*options); }); });
}

}  // namespace swiftprune::cli
