// What a call throws: the kind and the message of its Error.
#pragma once

#include <initializer_list>
#include <optional>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "swiftprune/core/error.h"

namespace swiftprune::test {

template <class Call>
std::optional<Error> error_of(Call&& call) {
  try {
    call();
  } catch (const Error& error) {
    return error;
  }
  return std::nullopt;
}

// The call throws Error of this kind; its message is one line and holds every text.
template <class Call>
void expect_error(ErrorKind kind, Call&& call, std::initializer_list<std::string> texts) {
  const std::optional<Error> error = error_of(call);
  if (!error) {
    ADD_FAILURE() << "expected an Error";
    return;
  }
  EXPECT_EQ(error->kind(), kind) << error->what();
  const std::string message = error->what();
  for (const std::string& text : texts) EXPECT_THAT(message, ::testing::HasSubstr(text));
  EXPECT_EQ(message.find('\n'), std::string::npos) << message;
}

template <class Call>
void expect_error(ErrorKind kind, Call&& call, const std::string& text, const std::string& text2 = "") {
  expect_error(kind, call, {text, text2});
}

}  // namespace swiftprune::test
