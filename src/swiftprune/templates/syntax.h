// The syntax tree of a template. Names are resolved to slots before a render (symbols.h), as jinja2's
// compiler does, so that a variable means the same here and there.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "swiftprune/templates/value.h"

namespace swiftprune::templates {

struct Expression;
using ExpressionPtr = std::unique_ptr<Expression>;
struct Statement;
using Body = std::vector<Statement>;

// A variable of a function (the template, a macro, the body of a call): `hops` functions outside the one that
// runs.
struct Slot {
  int hops = 0;
  int index = -1;
};

enum class ExpressionKind {
  kConstant,
  kName,          // text, slot
  kNamespaceRef,  // text.attribute as a target; slot of the namespace
  kTuple,         // items
  kList,
  kDict,       // items: key, value, key, value ...
  kAttribute,  // items[0].text
  kItem,       // items[0][items[1]]
  kSlice,      // items[0][items[1] : items[2] : items[3]], each of the three may be null
  kCall,       // items[0](arguments)
  kFilter,     // items[0] | text(arguments); items[0] null: the text of a block
  kTest,       // items[0] is text(arguments)
  kCondition,  // items[0] if items[1] else items[2]; items[2] may be null
  kAnd,
  kOr,
  kNot,
  kNegative,
  kPositive,
  kBinary,   // text: + - * / // % **
  kConcat,   // ~
  kCompare,  // items[0] operators[0] items[1] operators[1] ...
};

struct CallArguments {
  std::vector<ExpressionPtr> positional;
  std::vector<std::pair<std::string, ExpressionPtr>> keywords;
  ExpressionPtr rest, rest_keywords;  // *x, **x
};

struct Expression {
  ExpressionKind kind;
  int line = 0;
  std::string text;       // name, attribute, filter, test or operator
  std::string attribute;  // of kNamespaceRef
  Value constant;
  std::vector<ExpressionPtr> items;
  std::vector<std::string> operators;
  CallArguments arguments;
  bool store = false;  // a target
  Slot slot;
};

// What a scope's variables begin with when it is entered.
struct SlotLoad {
  enum class Kind { kContext, kOuter, kMissing };
  Kind kind;
  int index;         // of the running function
  std::string name;  // kContext
  Slot from;         // kOuter
};
using Scope = std::vector<SlotLoad>;

struct Parameter {
  std::string name;
  ExpressionPtr value;  // null: none
  int slot = -1;
};

// A macro or the body of a call block.
struct Function {
  std::string name;  // empty: of a call block
  std::vector<Parameter> parameters;
  Body body;
  Scope scope;
  int num_slots = 0;
  // The special variables, where the body reads them.
  int caller_slot = -1, kwargs_slot = -1, varargs_slot = -1;
  bool explicit_caller = false;
};

enum class StatementKind {
  kOutput,
  kIf,
  kFor,
  kSet,
  kSetBlock,
  kMacro,
  kCallBlock,
  kFilterBlock,
  kWith,
  kGeneration,
  kBreak,
  kContinue
};

struct Statement {
  Statement(StatementKind kind_, int line_) : kind(kind_), line(line_) {}

  StatementKind kind;
  int line;
  std::vector<ExpressionPtr> expressions;  // output, conditions of if and elif, values of with, the call
  std::vector<ExpressionPtr> targets;      // of for, set and with
  std::vector<Body> bodies;                // if: one for each condition, then else; for: body, else
  ExpressionPtr filter;                    // of a block; null: none
  ExpressionPtr test;                      // of a for
  ExpressionPtr test_target;               // the for's target in its test's scope
  Scope scope, else_scope, test_scope;
  int loop_slot = -1;                  // of a for whose body reads `loop`
  Slot slot;                           // of a macro's name
  std::unique_ptr<Function> function;  // of a macro, a call block or a generation block
};

}  // namespace swiftprune::templates
