#include "shrink_record.h"

#include <utility>

#include <fmt/format.h>

#include "option_echo.h"
#include "swiftprune/pipeline/record.h"

namespace swiftprune::cli {

using Json = nlohmann::ordered_json;

Json shrink_record(const ShrinkRun& run, const Json& own, Json hashes) {
  Json record = {{"swiftprune", SWIFTPRUNE_VERSION},
                 {"command", command_record(*run.flags.common.command)},
                 {"method", run.method},
                 {"family", run.model.config().family},
                 {"weights_changed", run.compensation != "none"},
                 {"compensation", run.compensation}};
  record.update(own);
  record.update(
      {{"parameters", {{"dense", num_parameters(run.model.checkpoint())}, {"shrunk", run.parameters}}},
       {"calibration", calibration_record(run.flags.calibration.record(run.windows))},
       {"input", std::move(hashes)},
       {"machine", machine_record()},
       {"seconds", seconds_record(run.seconds)},
       {"tensors", Json::array()}});  // nothing is zero
  record["machine"].update(run.device.describe().machine);
  if (Json previous = previous_record(run.model.checkpoint()); !previous.is_null())
    record["previous"] = std::move(previous);
  return record;
}

void print_parameters(const Json& record) {
  fmt::print("parameters  {} of {}\n", record.at("parameters").at("shrunk").get<std::int64_t>(),
             record.at("parameters").at("dense").get<std::int64_t>());
}

void print_shrink_time(const Json& record, double seconds) {
  const Json& s = record.at("seconds");
  fmt::print("time        {:.1f} s: forward {:.1f}, solve {:.1f}, read and write {:.1f}\n", seconds,
             s.at("forward").get<double>(), s.at("solve").get<double>(),
             s.at("load").get<double>() + s.at("write").get<double>());
}

}  // namespace swiftprune::cli
