target_sources(swiftprune PRIVATE
  report/block_linears.cpp
  report/inspect.cpp
  report/prune_record.cpp
  report/verify.cpp
  report/gates.cpp
  report/model_summary.cpp
  report/comparison.cpp
  report/comparison_json.cpp
  report/comparison_markdown.cpp
  report/comparison_html.cpp
  report/comparison_charts.cpp
  report/comparison_texts.cpp
  report/svg.cpp)
