#include "swiftprune/report/comparison.h"
#include "swiftprune/report/numbers.h"

namespace swiftprune {
namespace {

// A cell must not end its column.
std::string cell(const std::string& text) {
  std::string result;
  for (const char c : text) {
    if (c == '|') result += '\\';
    result += c == '\n' ? ' ' : c;
  }
  return result;
}

std::string row(const ModelReport& model) {
  const ModelSummary& s = model.summary;
  const auto& d = model.divergence;
  const auto of = [&](double Divergence::*member) {
    return d ? std::optional<double>(*d.*member) : std::nullopt;
  };
  std::string ratio = number(of(&Divergence::perplexity_ratio), 3);
  if (d && d->ratio_interval) {
    ratio += fmt::format(" ({:.3f}–{:.3f})", d->ratio_interval->low, d->ratio_interval->high);
  }
  return fmt::format("| {} | {} | {} | {:.1f} % | {:.1f} MB | {:.2f} | {} | {} | {} | {} | {} | {} | {} |\n",
                     cell(s.name), cell(steps_text(s)), cell(s.pattern), 100.0 * s.sparsity,
                     static_cast<double>(model.stored_bytes()) / 1e6, s.bits_per_weight,
                     model.perplexity ? fmt::format("{:.3f}", model.perplexity->perplexity) : "–", ratio,
                     number(model.bits_per_byte, 4), number(of(&Divergence::mean_kl), 4),
                     number(d ? std::optional(100.0 * d->top1) : std::nullopt, 1),
                     number(model.forward_tokens_per_second, 0), number(model.decode_tokens_per_second, 1));
}

}  // namespace

std::string to_markdown(const ComparisonReport& report) {
  const Verdict verdict = verdict_of(report);
  std::string text = fmt::format("# {}\n\n**{}.** {}\n\n", report.title, verdict.headline, verdict.detail);
  for (const GateResult& gate : report.gates) text += "- " + gate.line() + "\n";
  if (!report.gates.empty()) text += "\n";
  if (report.recommendation) text += fmt::format("Recommended: `{}`\n\n", *report.recommendation);
  text +=
      "| model | method | pattern | zeros | size | bits a weight | perplexity | ratio (95 %) | bits/byte | "
      "KL, nats | top-1, "
      "% | "
      "forward, tokens/s | decode, tokens/s |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|\n";
  for (const ModelReport& model : report.models) text += row(model);
  if (!report.text.empty())
    text += fmt::format("\nText: {}; {}; {}.\n", report.text, report.convention, report.compute);
  for (const EqualBytes& equal : report.equal_bytes) text += fmt::format("\n{}\n", equal.line());
  for (const std::string& note : report.notes) text += fmt::format("\n{}\n", note);
  text += "\n```\n";
  for (const std::string& command : report.commands) text += command + "\n";
  return text + "```\n";
}

}  // namespace swiftprune
