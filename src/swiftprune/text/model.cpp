#include "swiftprune/text/model.h"

#include "swiftprune/text/bpe.h"
#include "swiftprune/text/unigram.h"
#include "swiftprune/text/word_models.h"

namespace swiftprune::text {
namespace {

const Component<std::unique_ptr<TokenModel>> kModels[] = {
    {"BPE", Bpe::from_json},
    {"Unigram", Unigram::from_json},
    {"WordLevel", WordLevel::from_json},
    {"WordPiece", WordPiece::from_json},
};

}  // namespace

std::unique_ptr<TokenModel> make_model(const JsonField& field) {
  if (!field.find("type")) {  // files of before 2020 leave the type out; they are BPE when they have merges
    if (field.find("merges")) return Bpe::from_json(field);
  }
  return make_component(kModels, field);
}

}  // namespace swiftprune::text
