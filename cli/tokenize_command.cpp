#include <fmt/ranges.h>

#include <memory>

#include "command.h"
#include "swiftprune/core/error.h"
#include "swiftprune/text/corpus.h"
#include "swiftprune/text/token_windows.h"
#include "swiftprune/text/tokenizer.h"

namespace swiftprune::cli {
namespace {

struct TokenizeFlags {
  CommonOptions common;
  std::string model, text_file, prompt, field = "text", show = "summary", ids_out;
  bool no_special = false;
};

std::string tokens_line(const Tokenizer& tokenizer, const std::vector<std::int32_t>& ids) {
  std::vector<std::string> cells;
  for (const std::int32_t id : ids) cells.push_back(fmt::format("{}:{}", id, tokenizer.token(id)));
  return fmt::format("{}", fmt::join(cells, " "));
}

void run(const TokenizeFlags& options) {
  const RunScope job = apply(options.common);
  check_output_file("--ids-out", options.ids_out);
  const auto tokenizer = Tokenizer::open(options.model);
  const Corpus corpus = options.text_file.empty() ? Corpus{"--prompt", {options.prompt}}
                                                  : read_corpus(options.text_file, options.field);
  print_notes(options.common, corpus.notes);
  std::vector<std::int32_t> all;
  std::size_t bytes = 0;
  auto documents = nlohmann::ordered_json::array();
  for (const std::string& document : corpus.documents) {
    const std::vector<std::int32_t> ids = tokenizer->encode(document, !options.no_special);
    bytes += document.size();
    if (!options.ids_out.empty() || options.show == "summary") all.insert(all.end(), ids.begin(), ids.end());
    if (options.show == "summary") continue;
    if (options.common.json) {
      documents.push_back({{"ids", ids}, {"text", tokenizer->decode(ids)}});
    } else if (options.show == "ids") {
      fmt::print("{}\n", fmt::join(ids, " "));
    } else if (options.show == "tokens") {
      fmt::print("{}\n", tokens_line(*tokenizer, ids));
    } else {
      fmt::print("{}\n", nlohmann::json(tokenizer->decode(ids, false)).dump());
    }
  }
  if (!options.ids_out.empty()) write_token_ids(options.ids_out, all);
  if (options.common.json) {
    nlohmann::ordered_json result = {{"tokenizer", tokenizer->fingerprint()},
                                     {"vocab_size", tokenizer->vocab_size()},
                                     {"documents", corpus.documents.size()},
                                     {"bytes", bytes}};
    if (options.show == "summary") {
      result["tokens"] = all.size();
      result["ids_hash"] = TokenWindows{1, all}.hash();
    } else {
      result["encoded"] = documents;
    }
    print_json(result);
  } else if (options.show == "summary") {
    fmt::print("{} documents, {} bytes, {} tokens ({:.2f} bytes a token)\n{}\n", corpus.documents.size(),
               bytes, all.size(),
               all.empty() ? 0.0 : static_cast<double>(bytes) / static_cast<double>(all.size()),
               TokenWindows{1, all}.hash());
  }
}

}  // namespace

void declare_tokenize(CLI::App& program) {
  auto options = std::make_shared<TokenizeFlags>();
  CLI::App* command = program.add_subcommand("tokenize", "Text to token ids with a model's tokenizer");
  add_model_argument(*command, options->common, "MODEL", options->model,
                     "Folder with tokenizer.json or tokenizer.model, one such file, or a GGUF file")
      ->required();
  CLI::Option* text =
      command->add_option("--text", options->text_file, "Text file, or .jsonl with one document a line");
  command->add_option("--prompt", options->prompt, "The text itself")->excludes(text);
  command->add_option("--field", options->field, "Member of a .jsonl line that holds the text");
  command
      ->add_option("--show", options->show,
                   "What to print: ids or tokens of each document, the text that "
                   "decoding its ids gives (as a JSON string), or only a summary")
      ->transform(one_of({"summary", "ids", "tokens", "text"}));
  command->add_option("--ids-out", options->ids_out,
                      "Write all ids to this file (.u16 or .u32, little endian)");
  command->add_flag("--no-special", options->no_special, "Leave out the special tokens around each document");
  add_common_options(*command, options->common);
  command->footer("Example: swiftprune tokenize MODEL --prompt \"Hello world\" --show tokens");
  command->callback([options] { run(*options); });
}

}  // namespace swiftprune::cli
