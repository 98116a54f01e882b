// swiftprune methods: what --method, --score, --select and --refine take.
#include <memory>

#include <fmt/format.h>

#include "command.h"
#include "swiftprune/pipeline/method.h"

namespace swiftprune::cli {
namespace {

void print_methods(const CommonOptions& common) {
  if (common.json) {
    nlohmann::ordered_json list = nlohmann::ordered_json::array();
    for (const Method& m : methods()) {
      list.push_back({{"name", m.name},
                      {"score", format(m.score)},
                      {"n_m_score", format(m.n_m_score)},
                      {"select", name_of(m.select)},
                      {"refine", format(m.refine)},
                      {"windows", m.windows},
                      {"gpu_windows", m.gpu_windows},
                      {"propagate", name_of(m.propagation)},
                      {"summary", m.summary},
                      {"source", m.source}});
    }
    print_json({{"methods", list}});
    return;
  }
  fmt::print("Methods (--method): score x selection x refinement, windows of calibration text\n");
  for (const Method& m : methods()) {
    const std::string on_gpu =
        m.gpu_windows != m.windows ? fmt::format(" ({} on a GPU)", m.gpu_windows) : std::string();
    fmt::print("  {:<13} {} x {} x {}, {} windows{}, propagates {}\n  {:<13} {}{}\n", m.name, format(m.score),
               name_of(m.select), format(m.refine), m.windows, on_gpu, name_of(m.propagation), "", m.summary,
               m.source.empty() ? "" : fmt::format(" ({})", m.source));
  }
  const auto list = [](std::string_view title, const auto& infos) {
    fmt::print("\n{}\n", title);
    for (const auto& info : infos) fmt::print("  {:<13} {} ({})\n", info.name, info.summary, info.source);
  };
  fmt::print("\nScores (--score)\n");
  for (const ScoreKind* kind : score_kinds())
    fmt::print("  {:<13} {} ({})\n", kind->name, kind->summary, kind->source);
  list("Selections (--select)", selectors());
  list("Refinements (--refine)", refiners());
}

}  // namespace

void declare_methods(CLI::App& program) {
  auto common = std::make_shared<CommonOptions>();
  CLI::App* list = program.add_subcommand(
      "methods", "List methods, scores, selections and refinements with their sources");
  add_common_options(*list, *common);
  list->footer("Example: swiftprune methods");
  list->callback([common] {
    const RunScope job = apply(*common);
    print_methods(*common);
  });
}

}  // namespace swiftprune::cli
