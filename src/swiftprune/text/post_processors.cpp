#include "swiftprune/text/post_processors.h"

#include <iterator>

#include "swiftprune/core/error.h"

namespace swiftprune::text {
namespace {

SpecialFrame none(const JsonField&) { return {}; }

// {"single": [{"SpecialToken": {"id": name}}, {"Sequence": {"id": "A"}}, ...],
//  "special_tokens": {name: {"ids": [...]}}}
SpecialFrame template_processing(const JsonField& field) {
  SpecialFrame frame;
  bool seen_text = false;
  for (const JsonField& piece : field.at("single").items()) {
    if (const auto sequence = piece.find("Sequence")) {
      if (seen_text) piece.unexpected("the text once");
      if (sequence->at("id").string() != "A")
        sequence->unexpected("sequence A in the template of a single text");
      seen_text = true;
      continue;
    }
    const JsonField name = piece.at("SpecialToken").at("id");
    auto& side = seen_text ? frame.after : frame.before;
    for (const JsonField& id : field.at("special_tokens").at(name.string()).at("ids").items()) {
      side.push_back(static_cast<std::int32_t>(id.integer(0, INT32_MAX)));
    }
  }
  if (!seen_text) field.at("single").unexpected("a template that holds the text (sequence A)");
  return frame;
}

// BertProcessing and RobertaProcessing: "cls" and "sep" are [token, id].
SpecialFrame cls_sep(const JsonField& field) {
  const auto id_of = [&](std::string_view key) {
    const std::vector<JsonField> pair = field.at(key).items();
    if (pair.size() != 2) field.at(key).unexpected("[token, id]");
    return static_cast<std::int32_t>(pair[1].integer(0, INT32_MAX));
  };
  return {{id_of("cls")}, {id_of("sep")}};
}

SpecialFrame make(const JsonField& field);

SpecialFrame sequence(const JsonField& field) {
  SpecialFrame frame;
  for (const JsonField& item : field.at("processors").items()) {
    const SpecialFrame outer = make(item);
    frame.before.insert(frame.before.begin(), outer.before.begin(), outer.before.end());
    frame.after.insert(frame.after.end(), outer.after.begin(), outer.after.end());
  }
  return frame;
}

const Component<SpecialFrame> kPostProcessors[] = {
    {"TemplateProcessing", template_processing},
    {"ByteLevel", none},
    {"BertProcessing", cls_sep},
    {"RobertaProcessing", cls_sep},
    {"Sequence", sequence},
};

SpecialFrame make(const JsonField& field) { return make_component(kPostProcessors, field); }

}  // namespace

SpecialFrame make_special_frame(const JsonField& field, std::int64_t id_end) {
  SpecialFrame frame = make(field);
  for (const auto* side : {&frame.before, &frame.after}) {
    for (const std::int32_t id : *side) {
      if (id >= id_end)
        bad_input("{}: found the token id {}, expected one below {}", field.where(), id, id_end);
    }
  }
  return frame;
}

}  // namespace swiftprune::text
