// Stages of a run as a Chrome trace.
#include "swiftprune/core/timeline.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "swiftprune/core/run_context.h"

namespace swiftprune {
namespace {

TEST(Timeline, NothingIsKeptWithoutOne) {
  EXPECT_EQ(Timeline::bound(), nullptr);
  const TimelineStage stage("forward");  // goes nowhere
}

TEST(Timeline, StagesOfRanksBecomeATrace) {
  Timeline timelines[2];
  for (Timeline& timeline : timelines) {
    RunContext run;
    run.timeline = &timeline;
    const RunScope scope(run);
    const RunScope inner(RunContext{});  // keeps the one around
    EXPECT_EQ(Timeline::bound(), &timeline);
    {
      const TimelineStage stage("forward", 3);
      const TimelineStage beside("write", -1, "writer");
    }
  }
  const auto trace =
      nlohmann::json::parse(trace_file({timelines[0].events(0), timelines[1].events(1)}))["traceEvents"];
  int stages = 0;
  for (const auto& event : trace) {
    if (event["ph"] != "X") continue;
    ++stages;
    EXPECT_GE(event["ts"].get<double>(), 0.0);
    EXPECT_GE(event["dur"].get<double>(), 0.0);
    if (event["name"] == "forward") {
      EXPECT_EQ(event["args"]["block"], 3);
    }
  }
  EXPECT_EQ(stages, 4);
}

}  // namespace
}  // namespace swiftprune
