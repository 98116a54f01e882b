target_sources(swiftprune PRIVATE
  serving/answer_json.cpp
  serving/answer_text.cpp
  serving/batch_engine.cpp
  serving/generation.cpp
  serving/http_front.cpp
  serving/json_acceptor.cpp
  serving/json_schema.cpp
  serving/metrics.cpp
  serving/openai_api.cpp
  serving/request_fields.cpp
  serving/scheduler.cpp
  serving/server.cpp
  serving/token_mask.cpp
  serving/token_table.cpp)
