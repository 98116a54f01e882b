#include "seeds.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <utility>

#include "fuzz_folder.h"
#include "swiftprune/checkpoint/gguf.h"
#include "swiftprune/checkpoint/gguf_dequantize.h"
#include "swiftprune/core/json.h"
#include "swiftprune/model/family.h"
#include "swiftprune/pipeline/plan.h"
#include "swiftprune/sparse/pack.h"
#include "swiftprune/sparse/pack_quantized.h"
#include "swiftprune/tensor/dtype.h"

namespace swiftprune::fuzz {
namespace {

namespace fs = std::filesystem;
using Inputs = std::vector<std::string>;
using nlohmann::json;

constexpr std::uintmax_t kLargest = 1 << 13;  // bytes of a file: a round stays short

std::string text_of(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// In the order of their names.
std::vector<fs::path> files_in(const fs::path& folder, std::string_view ending) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file() && entry.path().filename().string().ends_with(ending))
      files.push_back(entry.path());
  }
  std::ranges::sort(files);
  return files;
}

Inputs contents(const fs::path& folder, std::string_view ending, std::string_view beginning = "") {
  Inputs inputs;
  for (const fs::path& file : files_in(folder, ending)) {
    if (fs::file_size(file) <= kLargest && file.filename().string().starts_with(beginning))
      inputs.push_back(text_of(file));
  }
  return inputs;
}

// A GGUF header with its keys and its architecture called otherwise; their lengths stand before them.
std::string with_architecture(std::string header, std::string_view from, std::string_view to) {
  constexpr std::string_view kKey = "general.architecture";
  constexpr std::size_t kLength = 8, kType = 4;
  for (auto at = header.find(from); at != std::string::npos; at = header.find(from, at + to.size())) {
    const bool of_key = header[at + from.size()] == '.';
    const std::size_t key = kKey.size() + kType + kLength;
    if (at < key || (!of_key && header.compare(at - key, kKey.size(), kKey) != 0)) continue;
    std::uint64_t length = 0;
    std::memcpy(&length, header.data() + at - kLength, kLength);
    length += to.size() - from.size();
    std::memcpy(header.data() + at - kLength, &length, kLength);
    header.replace(at, from.size(), to);
  }
  return header;
}

// What stands in front of the tensors, which gguf_fuzz puts zeros for; and blocks of every type.
Inputs ggufs(const fs::path& data) {
  Inputs inputs;
  for (const fs::path& file : files_in(data / "checkpoint/gguf", ".gguf")) {
    if (file.filename().string().find("-of-") != std::string::npos) continue;
    const std::string bytes = text_of(file);
    const GgufFile gguf = GgufFile::open(file);
    std::uint64_t begin = bytes.size();
    for (const GgufTensor& tensor : gguf.tensors()) begin = std::min(begin, tensor.begin);
    inputs.push_back(bytes.substr(0, begin));
    if (file.stem() == "llama") inputs.push_back(with_architecture(inputs.back(), "llama", "deci"));
  }
  for (std::uint32_t number = 0; number < 64; ++number) {
    const GgmlTypeTraits* type = find_ggml_type(number);
    if (type == nullptr) continue;
    inputs.emplace_back(1, static_cast<char>(number));
    for (std::int64_t i = 0; i < 2 * type->block_bytes; ++i) inputs.back() += static_cast<char>(i * 37 + 11);
  }
  return inputs;
}

// safetensors_fuzz takes the first half as the header.
Inputs safetensors() {
  const std::string header =
      R"({"__metadata__":{"format":"pt"},"a.weight":{"dtype":"BF16","shape":[4,32],"data_offsets":[0,256]},)"
      R"("b.bias":{"dtype":"F32","shape":[64],"data_offsets":[256,512]}})";
  const std::string data(512, '\1');
  const std::string index =
      R"({"metadata":{"total_size":512},"weight_map":{"a.weight":"a.safetensors","b.bias":"a.safetensors"}})";
  std::string padded = header;
  padded.resize(data.size(), ' ');
  return {padded + data, padded + data + std::string(kBetween) + index, std::string("{}") + "  "};
}

// Of every family: the first byte of an input chooses it.
Inputs configs(const fs::path& data) {
  const auto families = all_families();
  Inputs inputs;
  for (const char* folder : {"model", "experts"}) {
    for (const fs::path& file : files_in(data / folder, "config.json")) {
      if (file.filename() != "config.json") continue;
      const json config = json::parse(text_of(file));
      const json& text = config.contains("text_config") ? config["text_config"] : config;
      const std::string type = text.value("model_type", config.value("model_type", ""));
      const auto family = std::ranges::find_if(families, [&](const ModelFamily& one) {
        return std::ranges::find(one.model_types, type) != one.model_types.end();
      });
      if (family != families.end())
        inputs.push_back(static_cast<char>(family - families.begin()) + text.dump());
    }
  }
  return inputs;
}

// A tokenizer.json with few tokens and the merges among them: a round stays short.
json with_few_tokens(json tokenizer) {
  constexpr std::size_t kTokens = 24;
  json& model = tokenizer.at("model");
  json& vocabulary = model.at("vocab");
  if (vocabulary.is_array()) {  // Unigram: the number is the place
    if (vocabulary.size() > kTokens)
      vocabulary.erase(vocabulary.begin() + static_cast<std::ptrdiff_t>(kTokens), vocabulary.end());
    return tokenizer;
  }
  json few = json::object();
  json merges = json::array();
  for (const json& merge : model.value("merges", json::array())) {
    const std::string text = merge.is_string() ? merge.get<std::string>() : "";
    const std::size_t blank = text.find(' ');
    const std::string left = merge.is_string() ? text.substr(0, blank) : merge.at(0).get<std::string>();
    const std::string right = merge.is_string() ? text.substr(blank + 1) : merge.at(1).get<std::string>();
    if (!vocabulary.contains(left) || !vocabulary.contains(right) || !vocabulary.contains(left + right))
      continue;
    for (const std::string& token : {left, right, left + right}) few[token] = vocabulary[token];
    merges.push_back(merge);
    if (few.size() >= kTokens) break;
  }
  if (const auto unknown = model.find("unk_token"); unknown != model.end() && unknown->is_string())
    few[unknown->get<std::string>()] = vocabulary.value(unknown->get<std::string>(), 0);
  for (const auto& [token, id] : vocabulary.items()) {
    if (few.size() < kTokens) few[token] = id;
  }
  vocabulary = few;
  if (model.contains("merges")) model["merges"] = merges;
  return tokenizer;
}

// One normalizer, way of cutting or decoder in a tokenizer of a few words.
Inputs tokenizer_components(const fs::path& data) {
  const json models = json::parse(
      R"([{"type":"BPE","vocab":{"H":0,"e":1,"l":2,"o":3,"ll":4,"He":5," ":6,"1":7},"merges":["l l","H e"]},)"
      R"({"type":"WordLevel","vocab":{"Hello":0,"world":1,"<unk>":2},"unk_token":"<unk>"},)"
      R"({"type":"WordPiece","vocab":{"Hel":0,"##lo":1,"[UNK]":2},"unk_token":"[UNK]",)"
      R"("continuing_subword_prefix":"##","max_input_chars_per_word":9},)"
      R"({"type":"Unigram","vocab":[["<unk>",0.0],["H",-1.5],["ello",-2],["\u2581",-3.25]],"unk_id":0,)"
      R"("byte_fallback":false}])");
  const json components = json::parse(text_of(data / "text/components.json"));
  Inputs inputs;
  for (const auto& [name, list] : {std::pair{"normalizer", "normalizers"},
                                   {"pre_tokenizer", "pre_tokenizers"},
                                   {"decoder", "decoders"}}) {
    for (const json& one : components.at(list)) {
      json tokenizer = {{"model", models[inputs.size() % models.size()]}};
      tokenizer[name] = one.at("component");
      inputs.push_back(std::string(1, '\0') + tokenizer.dump());
    }
  }
  return inputs;
}

Inputs tokenizers(const fs::path& data) {
  const std::string between(kBetween);
  const std::string settings = R"({"add_bos_token":true,"bos_token":"<s>","eos_token":{"content":"</s>"},)"
                               R"("added_tokens_decoder":{"3":{"content":"<x>","special":true}}})";
  Inputs inputs = tokenizer_components(data);
  for (const fs::path& file : files_in(data / "text/tokenizers", ".json")) {
    if (file.filename().string().ends_with(".cases.json")) continue;
    inputs.push_back(std::string(1, '\0') + with_few_tokens(json::parse(text_of(file))).dump());
    inputs.push_back(inputs.back() + between + settings);
  }
  for (const fs::path& file : files_in(data / "text/sentencepiece", ".model"))
    inputs.push_back('\1' + text_of(file) + between + settings);
  inputs.push_back('\2' +
                   std::string(R"({"H":0,"e":1,"l":2,"o":3,"ll":4,"He":5,"Ġ":6,"w":7,"Ġw":8,"<s>":9})") +
                   between + "#version: 0.2\nl l\nH e\nĠ w\n" + between + settings + between +
                   R"({"unk_token":"<s>"})" + between + R"({"<more>":10})");
  inputs.push_back(
      '\0' + std::string(R"({"added_tokens":[{"id":8,"content":"world","single_word":true,"lstrip":true},)"
                         R"({"id":9,"content":"<s>","special":true,"rstrip":true}],"normalizer":{"type":)"
                         R"("Lowercase"},"pre_tokenizer":{"type":"Metaspace","replacement":"_",)"
                         R"("prepend_scheme":"first"},"model":{"type":"BPE","vocab":{"h":0,"e":1,"_":2,)"
                         R"("he":3},"merges":["h e"]}})"));
  return inputs;
}

// Each as every kind; the first byte chooses it.
Inputs jsons(const fs::path& data) {
  Inputs inputs, texts = contents(data / "evaluation", ".jsonl");
  texts.emplace_back("{\"text\": \"one\"}\n{\"text\": \"two \\u00e9\"}\n");
  texts.emplace_back("[{\"text\": \"one\"}, {\"text\": \"two\"}]");
  texts.emplace_back("[\"one\", \"two\", NaN, -Infinity, 1e400]");
  texts.emplace_back("{\"data\": [{\"content\": [{\"type\": \"text\", \"text\": \"x\"}]}]}");
  texts.emplace_back("plain text\nwith lines\n");
  // "hello" through gzip, and through zstd
  texts.emplace_back("\x1f\x8b\x08\0\0\0\0\0\0\3\xcb\x48\xcd\xc9\xc9\7\0\x86\xa6\x10\x36\5\0\0\0", 25);
  texts.emplace_back("\x28\xb5\x2f\xfd\x20\5\x29\0\0hello", 14);
  for (const std::string& text : texts) {
    for (const char kind : {'\0', '\1', '\2', '\3'}) inputs.push_back(kind + text);
  }
  return inputs;
}

Inputs chat_templates(const fs::path& data) {
  const json chat = json::parse(text_of(data / "templates/chat.json"));
  const json& requests = chat.at("requests");
  Inputs inputs;
  std::size_t next = 0;
  for (const fs::path& file : files_in(data / "templates/chat", ".jinja")) {
    const auto request = std::next(requests.begin(), static_cast<std::ptrdiff_t>(next++ % requests.size()));
    inputs.push_back(text_of(file) + '\0' + request->dump());
  }
  const json expressions = json::parse(text_of(data / "templates/expressions.json"));
  const std::string context = expressions.at("context").dump();
  for (const json& one : expressions.at("cases"))
    inputs.push_back(one.at(0).get<std::string>() + '\0' + context);
  return inputs;
}

std::string bytes_of(const PackedTensor& tensor) {
  return {reinterpret_cast<const char*>(tensor.bytes().data()), tensor.bytes().size()};
}

// In every form that holds it.
Inputs packed_tensors() {
  Inputs inputs;
  constexpr std::int64_t kRows = 19, kCols = 64;
  std::vector<std::uint16_t> bits(kRows * kCols, 0);
  Matrix values = Matrix::zeros(kRows, kCols);
  for (std::size_t i = 0; i < bits.size(); ++i) {
    if (i % 4 >= 2) continue;  // 2:4
    const float value = static_cast<float>(static_cast<int>(i * 7 % 31) - 15) / 8.0f;
    bits[i] = f32_to_bf16(value);
    values.values()[i] = value;
  }
  const WeightBits weight{bits, kRows, kCols, DType::kBF16};
  for (const Quantize quantize : {Quantize::kNone, Quantize::kInt8, Quantize::kFp8}) {
    for (const FormatSize& size : formats_for(weight, quantize))
      inputs.push_back(bytes_of(pack(weight, size.format)));
  }
  for (const int of_bits : {4, 8}) {
    const QuantizedWeight table = quantize_table(values.view(), of_bits, "seed");
    for (const FormatSize& size : formats_for(table)) inputs.push_back(bytes_of(pack(table, size.format)));
  }
  QuantizedWeight grid{{3, 32, true}, kRows, kCols, {}, {}, {}};
  grid.codes.assign(static_cast<std::size_t>(kRows * kCols), 3);
  for (std::size_t i = 0; i < grid.codes.size(); i += 4) grid.codes[i] = static_cast<std::uint8_t>(i / 4 % 8);
  grid.scales.assign(static_cast<std::size_t>(kRows * 2), f32_to_f16(0.5f));
  grid.zeros.assign(static_cast<std::size_t>(kRows * 2), 3);
  for (const FormatSize& size : formats_for(grid)) inputs.push_back(bytes_of(pack(grid, size.format)));
  return inputs;
}

// The first byte chooses the endpoint.
Inputs requests(const fs::path& data) {
  Inputs inputs = {
      std::string(1, '\0') +
          R"({"model":"m","prompt":"The sun","max_tokens":7,"temperature":0.5,"top_p":0.9,"seed":3,)"
          R"("stop":["a","bc"],"stream":true,"stream_options":{"include_usage":true}})",
      std::string(1, '\0') +
          R"({"prompt":[[1,2,3],[4]],"n":2,"best_of":2,"logprobs":3,"echo":true,"top_k":5,"min_p":0.1,)"
          R"("logit_bias":{"5":-100,"6":2.5},"frequency_penalty":0.5,"presence_penalty":-0.5,)"
          R"("repetition_penalty":1.1,"min_tokens":2,"ignore_eos":true,"stop_token_ids":[7]})",
      std::string(1, '\0') +
          R"({"prompt":"x","response_format":{"type":"json_schema","json_schema":{"name":"s","schema":)"
          R"({"type":"object","properties":{"a":{"type":"integer"},"b":{"type":"array","items":{"type":"string"},)"
          R"("minItems":1,"maxItems":3},"c":{"enum":["x",1,null]},"d":{"anyOf":[{"type":"number"},{"const":true}]}},)"
          R"("required":["a","b"],"additionalProperties":false}}}})",
      '\1' + std::string(R"({"messages":[{"role":"user","content":"Hi"}],"max_completion_tokens":5,)") +
          R"("logprobs":true,"top_logprobs":2,"response_format":{"type":"json_object"}})",
      '\1' + std::string(R"({"messages":[{"role":"user","content":[{"type":"text","text":"Hi"}]},)") +
          R"({"role":"assistant","content":"Hello"}],"continue_final_message":true,"add_generation_prompt":false,)"
          R"("chat_template_kwargs":{"mood":"gay"},"documents":[{"title":"t","text":"x"}]})",
  };
  const json chat = json::parse(text_of(data / "templates/chat.json"));
  for (const json& request : chat.at("requests")) inputs.push_back('\1' + request.dump());
  return inputs;
}

Inputs http_requests() {
  const auto post = [](const std::string& path, const std::string& more, const std::string& body) {
    return "POST " + path + " HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" + more +
           "\r\n" + body;
  };
  const std::string body = R"({"prompt":"The sun","max_tokens":2})";
  const std::string counted = "Content-Length: " + std::to_string(body.size()) + "\r\n";
  const std::string key = "Authorization: Bearer secret\r\n";
  return {
      "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n",
      "HEAD /v1/models/m HTTP/1.0\r\n" + key + "\r\n",
      "OPTIONS /v1/completions HTTP/1.1\r\nOrigin: http://a.example\r\n"
      "Access-Control-Request-Method: POST\r\n\r\n",
      post("/v1/completions", key + counted, body),
      post("/v1/completions?x=1&y=%41", key + counted, body),
      post("/v1/completions", key + "Transfer-Encoding: chunked\r\n",
           "5\r\n" + body.substr(0, 5) + "\r\n" + "1e;name=value\r\n" + body.substr(5) + "\r\n0\r\n\r\n"),
      post("/v1/completions", key + "Content-Encoding: gzip\r\nContent-Length: 25\r\n",
           std::string("\x1f\x8b\x08\0\0\0\0\0\0\3\xcb\x48\xcd\xc9\xc9\7\0\x86\xa6\x10\x36\5\0\0\0", 25)),
      post("/v1/completions", key + counted + "Transfer-Encoding: chunked\r\n", body),
      post("/v1/chat/completions", key + "Expect: 100-continue\r\nConnection: close\r\n" + counted, body),
      "POST /v1/completions HTTP/1.1\r\n" + key +
          "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 72\r\n\r\n"
          "--b\r\nContent-Disposition: form-data; name=\"a\"; filename=\"f\"\r\n\r\nx\r\n--b--\r\n",
      "PUT /nowhere HTTP/1.1\r\nRange: bytes=0-5,-1\r\nContent-Length: 0\r\n\r\n",
      "GET /health HTTP/1.1\r\n\r\nGET /v1/models HTTP/1.1\r\n" + key + "\r\n",
  };
}

// The first byte: a plan, a journal, a record, settings.
Inputs plans(const fs::path& data) {
  const auto model = Model::open(data / "model/llama2");
  PlanDefaults defaults;
  defaults.score = parse_score("wanda");
  defaults.pattern = parse_pattern("2:4");
  Plan plan = uniform_plan(*model, defaults, {"*.k_proj.weight"});
  auto document = to_json(plan);
  document["tensors"].erase(document["tensors"].begin() + 7, document["tensors"].end());  // of one block
  auto small = document;
  small["tensors"].erase(small["tensors"].begin() + 2, small["tensors"].end());
  auto graded = small;
  graded["permute"] = "mlp";
  graded["tensors"][0]["pattern"] = "row";
  graded["tensors"][0]["quantize"] = "int4(64)";
  graded["tensors"][0]["row_budgets"] = true;
  const std::string head = nlohmann::ordered_json{{"identity", {{"version", "0"}}}, {"plan", small}}.dump();
  const std::string block =
      R"({"layer":0,"weights_changed":true,"tensors":[{"name":"a.weight","pattern":"row","rows":4,"cols":8,)"
      R"("asked_sparsity":0.5,"sparsity":0.5,"error":0.1,"order":[1,0]}],"expert_tokens":[3,4]})";
  return {std::string(1, '\0') + document.dump(),
          std::string(1, '\0') + small.dump(),
          std::string(1, '\0') + graded.dump(),
          '\1' + head + "\n" + block + "\n",
          "\3pattern=2:4,refine=none",
          "\3sparsity=0.25,score=ria(0.7),quantize=int8(64)",
          '\2' + nlohmann::ordered_json{{"swiftprune", "0.1.0"},
                                        {"method", "best"},
                                        {"family", "llama"},
                                        {"pattern", "row"},
                                        {"weights_changed", true},
                                        {"tensors",
                                         {{{"name", "a.weight"},
                                           {"rows", 4},
                                           {"cols", 8},
                                           {"pattern", "2:4"},
                                           {"sparsity", 0.5},
                                           {"order", {1, 0}}}}}}
                     .dump()};
}

// Both files; the second one's header is as long as the numbers behind it (adapter_fuzz.cpp).
Inputs adapters(const fs::path& data) {
  const std::string linear = "base_model.model.model.layers.0.self_attn.q_proj.lora_";
  std::string header = R"({")" + linear +
                       R"(A.weight":{"dtype":"F32","shape":[4,8],"data_offsets":[0,128]},")" + linear +
                       R"(B.weight":{"dtype":"F32","shape":[8,4],"data_offsets":[128,256]}})";
  header.resize(256, ' ');
  Inputs inputs = {R"({"peft_type":"LORA","r":4,"lora_alpha":4,"target_modules":["q_proj"]})"};
  for (const std::string& config : contents(data / "adapter", ".json", "adapter_config"))
    inputs.push_back(config);
  for (std::string& input : inputs) input += std::string(kBetween) + header + std::string(256, '\0');
  return inputs;
}

}  // namespace

std::map<std::string, Inputs> seeds(const fs::path& data) {
  return {{"adapter_fuzz", adapters(data)},
          {"chat_template_fuzz", chat_templates(data)},
          {"config_fuzz", configs(data)},
          {"gguf_fuzz", ggufs(data)},
          {"http_fuzz", http_requests()},
          {"json_fuzz", jsons(data)},
          {"packed_tensor_fuzz", packed_tensors()},
          {"plan_fuzz", plans(data)},
          {"pytorch_fuzz", contents(data / "checkpoint", ".bin", "pytorch")},
          {"request_fuzz", requests(data)},
          {"safetensors_fuzz", safetensors()},
          {"tokenizer_fuzz", tokenizers(data)}};
}

}  // namespace swiftprune::fuzz
