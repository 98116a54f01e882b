// Templates against jinja2: tests/data/templates/expressions.json, written by
// tools/make_chat_template_fixtures.py.
#include "swiftprune/templates/template.h"

#include <gmock/gmock.h>

#include <string>

#include "swiftprune/core/read_file.h"
#include "swiftprune/templates/json_value.h"

namespace swiftprune::templates {
namespace {

using testing::HasSubstr;
using Kind = TemplateError::Kind;

LocalTime fixture_time() {
  LocalTime local;
  const std::time_t seconds = 1764340000;  // 2025-11-28 14:26:40
  gmtime_r(&seconds, &local.time);
  local.microseconds = 123456;
  return local;
}

std::string rendered(const std::string& source, const Dict& context = Dict(), RenderLimits limits = {}) {
  return Template(source).render(context, {.limits = limits, .now = fixture_time});
}

struct Stopped {
  Kind kind;
  std::string message;
};
Stopped stopped(const std::string& source, const Dict& context = Dict(), RenderLimits limits = {}) {
  try {
    ADD_FAILURE() << source << " gives " << rendered(source, context, limits);
  } catch (const TemplateError& error) {
    return {error.what_stopped(), error.what()};
  }
  return {};
}

class Fixture : public testing::Test {
 protected:
  const Value file_ =
      parse_json_value(file_bytes(SWIFTPRUNE_TEST_DATA "/templates/expressions.json"), "expressions.json");
  const Value* field(const char* name) const { return file_.as<Dict>()->find(std::string_view(name)); }
  const Dict& context() const { return *field("context")->as<Dict>(); }
};

TEST_F(Fixture, GivesWhatJinjaGives) {
  const Values& cases = *field("cases")->sequence();
  ASSERT_GT(cases.size(), 600u);
  for (const Value& entry : cases) {
    const std::string& source = *(*entry.sequence())[0].text();
    const std::string* expected = (*entry.sequence())[1].text();
    if (expected == nullptr) {
      EXPECT_THROW(rendered(source, context()), TemplateError) << source;
      continue;
    }
    try {
      EXPECT_EQ(rendered(source, context()), *expected) << source;
    } catch (const TemplateError& error) {
      ADD_FAILURE() << source << ": " << error.what();
    }
  }
}

TEST_F(Fixture, RefusesByNameWhatIsNotDone) {
  for (const Value& source : *field("refused")->sequence()) {
    const Stopped found = stopped(*source.text(), context());
    EXPECT_EQ(found.kind, Kind::kUnsupported) << *source.text() << ": " << found.message;
    EXPECT_THAT(found.message, HasSubstr("cannot be rendered here"));
  }
}

TEST(Template, ErrorsNameTheLine) {
  EXPECT_EQ(stopped("a\n{{ 1 + }}").message, "line 2: unexpected '}}'");
  EXPECT_EQ(stopped("a\n\n{{ x.y }}").message, "line 3: 'x' is undefined");
  const Stopped raised = stopped("{{ raise_exception('roles must alternate') }}");
  EXPECT_EQ(raised.kind, Kind::kRaised);
  EXPECT_THAT(raised.message, HasSubstr("roles must alternate"));
  EXPECT_EQ(stopped("\xff").kind, Kind::kSyntax);
}

TEST(Template, StaysWithinItsLimits) {
  for (const char* source : {
           "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
           "{% for i in range(100000) %}{{ 'x' * 1000 }}{% endfor %}",
           "{{ 'x' * 100000000 }}",
           "{{ [1] * 100000000 }}",
           "{{ '%100000000d' % 1 }}",
           "{{ 'a'.ljust(1000000000) }}",
           "{% macro m(i) %}{{ m(i) }}{% endmacro %}{{ m(1) }}",
           "{% set ns = namespace(x=[]) %}{% for i in range(200) %}{% set ns.x = [ns.x] %}{% endfor %}",
           "{% set ns = namespace(x=1) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}",
           "{% set ns = namespace(x=[1]) %}{% for i in range(200) %}{% set ns.x = ns.x|select %}{% endfor %}",
           "{% set ns = namespace(x='ab') %}{% for i in range(40) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
           "{{ ('a' * 10000).replace('', 'x' * 10000) }}",
       }) {
    EXPECT_EQ(stopped(source, Dict(), {.steps = 200'000, .work_bytes = 1 << 24}).kind, Kind::kLimit)
        << source;
  }
  EXPECT_EQ(stopped("{{ " + std::string(5000, '(') + "1").kind, Kind::kLimit);
  std::string chain = "{{ 1";
  for (int i = 0; i < 5000; ++i) chain += " + 1";
  EXPECT_EQ(stopped(chain + " }}").kind, Kind::kLimit);
  std::string nested;
  for (int i = 0; i < 5000; ++i) nested += "{% if 1 %}";
  EXPECT_EQ(stopped(nested).kind, Kind::kLimit);
  EXPECT_EQ(stopped(std::string(kMaxTemplateBytes + 1, 'x')).kind, Kind::kLimit);
}

// A namespace that holds itself, a loop that is kept: nothing leaks (the address sanitizer looks).
TEST(Template, ForgetsValuesThatHoldEachOther) {
  EXPECT_EQ(rendered("{% set ns = namespace() %}{% set ns.a = ns %}{% set ns.b = [ns] %}x"), "x");
  EXPECT_EQ(rendered("{% for i in [1] %}{{ loop.changed(loop) }}{% endfor %}"), "True");
  EXPECT_EQ(
      rendered(
          "{% set ns = namespace() %}{% for i in [1] %}{% set ns.l = loop %}{% endfor %}{{ ns.l.index }}"),
      "1");
}

TEST(ParseJsonValue, KeepsOrderAndNumbers) {
  const auto round = [](const char* text) {
    DictBuilder context;
    context.set("v", parse_json_value(text, "v"));
    return rendered("{{ v|tojson }}", context.build());
  };
  EXPECT_EQ(round(R"({"b": 1.0, "a": [1e5, -0.0, true, null, 9223372036854775807]})"),
            R"({"b": 1.0, "a": [100000.0, -0.0, true, null, 9223372036854775807]})");
  EXPECT_THROW(round("9223372036854775808"), TemplateError);
  EXPECT_THROW(round("18446744073709551616"), TemplateError);
  EXPECT_THROW(round("{\"a\": "), TemplateError);
  EXPECT_THROW(round(std::string(1000, '[').c_str()), TemplateError);
}

}  // namespace
}  // namespace swiftprune::templates
