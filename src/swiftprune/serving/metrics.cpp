#include "swiftprune/serving/metrics.h"

#include <fmt/format.h>

namespace swiftprune {

std::string metrics_text(const SchedulerCounts& c, double uptime_seconds) {
  std::string out;
  const auto add = [&](const char* name, const char* type, const char* help, auto value) {
    out += fmt::format("# HELP swiftprune_{0} {2}\n# TYPE swiftprune_{0} {1}\nswiftprune_{0} {3}\n", name,
                       type, help, value);
  };
  add("uptime_seconds", "gauge", "Seconds since the start.", uptime_seconds);
  add("requests_waiting", "gauge", "Answers in the queue.", c.waiting);
  add("requests_running", "gauge", "Answers that are decoded together.", c.running);
  add("requests_accepted_total", "counter", "Answers that entered the queue.", c.accepted);
  add("requests_refused_total", "counter", "Answers refused because there was no room.", c.refused);
  add("requests_finished_total", "counter", "Answers given to their end.", c.finished);
  add("requests_cancelled_total", "counter", "Answers whose client went away.", c.cancelled);
  add("requests_failed_total", "counter", "Answers that ended with an error.", c.failed);
  add("requests_timed_out_total", "counter", "Answers that took too long.", c.timed_out);
  add("prompt_tokens_total", "counter", "Tokens of prompts that were read.", c.prompt_tokens);
  add("reused_prompt_tokens_total", "counter", "Tokens of prompts that an earlier request had read already.",
      c.reused_tokens);
  add("generated_tokens_total", "counter", "Tokens generated.", c.generated_tokens);
  add("decode_steps_total", "counter", "Passes over the weights that gave each running request a token.",
      c.steps);
  add("cache_bytes", "gauge",
      "Bytes of keys and values that answers have, may come to need, and left to be reused.", c.cache.used);
  add("cache_limit_bytes", "gauge", "Bytes of keys and values at most.", c.cache.limit);
  return out;
}

}  // namespace swiftprune
