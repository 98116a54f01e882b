// The scheduler's counts in Prometheus' text format.
#pragma once

#include <string>

#include "swiftprune/serving/scheduler.h"

namespace swiftprune {

std::string metrics_text(const SchedulerCounts& counts, double uptime_seconds);

}  // namespace swiftprune
