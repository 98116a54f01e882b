#include "swiftprune/api/text_generator.h"

#include <algorithm>

#include "swiftprune/model/end_tokens.h"

namespace swiftprune {
namespace {

template <class Prompt>
Outcome<GeneratedText> write(TextWriter& writer, const Prompt& prompt, const WritingOptions& options,
                             const JobContext& context, const PieceFn& on_piece) {
  return outcome_of([&] {
    const RunScope scope(context.run);
    Writing writing = writer.write(writer.prompt(prompt), options);
    return write_to_end(writing, on_piece);
  });
}

}  // namespace

double GeneratedText::decode_tokens_per_second() const {
  return static_cast<double>(num_tokens) / std::max(1e-9, decode_seconds);
}

GeneratedText write_to_end(Writing& writing, const PieceFn& on_piece) {
  GeneratedText result;
  while (const auto piece = writing.next()) {
    result.text += *piece;
    on_piece(*piece);
  }
  result.text += writing.rest();
  result.stopped_by = writing.stopped_by();
  result.prompt_tokens = writing.prompt_tokens();
  result.num_tokens = writing.num_tokens();
  result.prefill_seconds = writing.prefill_seconds();
  result.decode_seconds = writing.decode_seconds();
  return result;
}

Outcome<std::shared_ptr<TextGenerator>> TextGenerator::open(const TextGeneratorOptions& options,
                                                            const JobContext& context) {
  return outcome_of([&] {
    const RunScope scope(context.run);
    std::shared_ptr<TextGenerator> generator(new TextGenerator());
    generator->location_ = locate_model(options.model);
    generator->device_ = open_device(options.where.device, options.where.options);
    generator->writer_ = std::make_unique<TextWriter>(
        generator->location_.folder, *generator->device_,
        compute_by_name(options.where.compute, *generator->device_), options.load, options.adapter);
    for (const std::string& note : generator->model().notes()) context.note(note);
    for (const std::string& note : generation_notes(generator->model())) context.note(note);
    return generator;
  });
}

Outcome<GeneratedText> TextGenerator::generate(std::string_view prompt, const WritingOptions& options,
                                               const JobContext& context, const PieceFn& on_piece) {
  return write(*writer_, prompt, options, context, on_piece);
}

Outcome<GeneratedText> TextGenerator::generate(const templates::ChatRequest& conversation,
                                               const WritingOptions& options, const JobContext& context,
                                               const PieceFn& on_piece) {
  return write(*writer_, conversation, options, context, on_piece);
}

}  // namespace swiftprune
