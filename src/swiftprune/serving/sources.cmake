set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS serving/chat_page.html)
file(READ serving/chat_page.html chat_page)
configure_file(serving/chat_page_text.cpp.in ${CMAKE_CURRENT_BINARY_DIR}/chat_page_text.cpp @ONLY)
target_sources(swiftprune PRIVATE
  ${CMAKE_CURRENT_BINARY_DIR}/chat_page_text.cpp
  serving/chat_page.cpp
  serving/answer_json.cpp
  serving/answer_text.cpp
  serving/batch_engine.cpp
  serving/chunk_pace.cpp
  serving/generation.cpp
  serving/http_front.cpp
  serving/http_server.cpp
  serving/json_acceptor.cpp
  serving/json_schema.cpp
  serving/metrics.cpp
  serving/openai_api.cpp
  serving/request_fields.cpp
  serving/scheduler.cpp
  serving/server.cpp
  serving/token_mask.cpp
  serving/token_table.cpp)
