#include "swiftprune/serving/scheduler.h"

#include <algorithm>
#include <new>
#include <utility>

#include "swiftprune/core/error.h"
#include "swiftprune/core/run_context.h"

namespace swiftprune {
namespace {

// Logits of a whole chunk are many: so few tokens at a time where a request wants those of its prompt.
constexpr std::int64_t kScoredChunk = 64;

// The signal that stops the program may reach an engine before the scheduler hears of it.
bool interrupted() {
  try {
    check_interrupt();
    return false;
  } catch (const Error&) {
    return true;
  }
}

SchedulerCounts idle_counts(const SequenceEngine& engine) {
  SchedulerCounts counts;
  counts.cache = engine.cache_memory();
  return counts;
}

double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

}  // namespace

Scheduler::Scheduler(SequenceEngine& engine, const SchedulerOptions& options)
    : engine_(engine),
      options_(options),
      pace_(options.prefill_chunk),
      lanes_(static_cast<std::size_t>(engine.num_lanes())),
      counts_(idle_counts(engine)),
      thread_([this, context = current_run()] {
        const RunScope scope(context);
        run();
      }) {}

Scheduler::~Scheduler() {
  stop();
  thread_.join();
}

std::size_t Scheduler::max_requests() const {
  return options_.max_waiting + static_cast<std::size_t>(engine_.num_lanes());
}

std::vector<std::shared_ptr<Generation>> Scheduler::submit(std::vector<GenerationRequest> requests) {
  std::vector<std::shared_ptr<Generation>> generations;
  for (GenerationRequest& request : requests) {
    expect(!request.prompt.empty() && request.max_tokens >= 0, "submit: a prompt");
    expect(static_cast<std::int64_t>(request.prompt.size()) + request.max_tokens <= engine_.capacity(),
           "submit: a request that fits");
    generations.push_back(std::make_shared<Generation>(std::move(request)));
    generations.back()->deadline_ = std::chrono::steady_clock::now() + options_.timeout;
  }
  {
    const std::lock_guard lock(mutex_);
    const std::size_t inside = waiting_.size() + static_cast<std::size_t>(counts_.running);
    if (stopping_ || lost_engine_ || inside + generations.size() > max_requests()) {
      counts_.refused += std::ssize(generations);
      return {};
    }
    counts_.accepted += std::ssize(generations);
    waiting_.insert(waiting_.end(), generations.begin(), generations.end());
  }
  work_.notify_one();
  return generations;
}

std::shared_ptr<Generation> Scheduler::submit(GenerationRequest request) {
  std::vector<GenerationRequest> one;
  one.push_back(std::move(request));
  const auto generations = submit(std::move(one));
  return generations.empty() ? nullptr : generations.front();
}

void Scheduler::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  work_.notify_one();
}

std::optional<std::string> Scheduler::lost_engine() const {
  const std::lock_guard lock(mutex_);
  return lost_engine_;
}

SchedulerCounts Scheduler::counts() const {
  const std::lock_guard lock(mutex_);
  SchedulerCounts counts = counts_;
  counts.waiting = static_cast<std::int64_t>(waiting_.size());
  return counts;
}

Scheduler::Failure Scheduler::failure_of(const std::exception_ptr& exception) {
  try {
    std::rethrow_exception(exception);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kDevice) return {FinishReason::kError, error.what(), false};
    return {FinishReason::kUnavailable, error.what(), true};
  } catch (const std::bad_alloc&) {
    return {FinishReason::kUnavailable, "out of memory; ask for fewer tokens, or try again later", false};
  } catch (const std::exception& error) {
    return {FinishReason::kError, error.what(), false};
  } catch (...) {
    return {FinishReason::kError, "an unknown error", false};
  }
}

void Scheduler::run() {
  try {
    running_.reserve(static_cast<std::size_t>(engine_.num_lanes()));
    while (true) {
      admit();
      if (stopping_) break;
      remove_done();
      if (decoding_ < running_.size()) {
        take_turns();
        if (joins()) {
          // How long a step takes alone says how much may be read beside it.
          step(pace_.knows_step(num_decoding()) ? next_chunk() : std::span<const std::int32_t>());
          continue;
        }
        prefill();
      }
      if (decoding_ > 0) step({});
    }
    end_all({FinishReason::kShutdown, "", false});
  } catch (...) {
    // Nothing but a lost engine gets here: what one request does wrong ends in fail_lanes.
    Failure failure = failure_of(std::current_exception());
    failure.reason = FinishReason::kUnavailable;
    end_all(failure);
  }
}

// Leaves the lanes as they are: nothing runs after this.
void Scheduler::end_all(const Failure& failure) {
  const std::lock_guard lock(mutex_);
  if (failure.reason != FinishReason::kShutdown) lost_engine_ = failure.message;
  counts_.failed += std::ssize(running_) + std::ssize(waiting_);
  for (const auto& generation : running_) generation->finish(failure.reason, failure.message);
  for (const auto& generation : waiting_) generation->finish(failure.reason, failure.message);
  running_.clear();
  waiting_.clear();
  decoding_ = 0;
  counts_.running = 0;
}

// The one that came first; while a prompt is being read, the first that has less to read than is left of that one.
std::shared_ptr<Generation> Scheduler::next_to_start() const {
  const std::size_t reading = running_.size() - decoding_;
  if (out_of_memory_ || reading > 1 || static_cast<std::int64_t>(running_.size()) == engine_.num_lanes())
    return nullptr;
  for (const std::shared_ptr<Generation>& generation : waiting_) {
    if (reading == 0) return generation;
    const std::vector<std::int32_t>& prompt = generation->request_.prompt;
    const std::size_t left = running_.back()->request_.prompt.size() - running_.back()->taken_;
    if (prompt.size() - find_beginning(prompt).shared < left) return generation;
  }
  return nullptr;
}

// Waits when there is nothing to do.
void Scheduler::admit() {
  std::shared_ptr<Generation> next;
  {
    std::unique_lock lock(mutex_);
    work_.wait(lock, [&] { return stopping_ || !running_.empty() || !waiting_.empty(); });
    if (stopping_) return;
    next = next_to_start();
  }
  if (next == nullptr) return;
  const bool started = start_lane(*next);
  const std::lock_guard lock(mutex_);
  if (!started && !running_.empty()) {
    out_of_memory_ = true;
    return;
  }
  std::erase(waiting_, next);
  counts_.cache = engine_.cache_memory();
  if (!started) {
    // What any request may ask for is had without the others: memory went elsewhere.
    ++counts_.failed;
    next->finish(FinishReason::kUnavailable, "out of memory; ask for fewer tokens, or try again later");
    return;
  }
  counts_.reused_tokens += next->reused_;
  running_.push_back(std::move(next));
  counts_.running = std::ssize(running_);
}

// The prompt's last token is always read: what follows it is asked for. A free lane that has read the longest beginning
// goes on with it, unless less is lost by taking the lane that was used the longest ago; that one then gets the beginning
// from it, as from a lane that is busy.
Scheduler::Beginning Scheduler::find_beginning(const std::vector<std::int32_t>& prompt) const {
  const auto shared_by = [&](const Lane& lane) {
    if (!options_.reuses_prompts) return std::size_t{0};
    const auto end =
        std::mismatch(prompt.begin(), prompt.end() - 1, lane.read.begin(), lane.read.end()).first;
    return static_cast<std::size_t>(end - prompt.begin());
  };
  Beginning best{.lane = running_.size(), .source = running_.size()};
  // Free lanes first: of equal ones it is those that can go on themselves.
  for (std::size_t i = 0; i < lanes_.size(); ++i) {
    const std::size_t lane = (running_.size() + i) % lanes_.size();
    const std::size_t shared = shared_by(lanes_[lane]);
    if (shared > best.shared) best = {.lane = best.lane, .source = lane, .shared = shared};
    if (lane >= running_.size() && lanes_[lane].last_use < lanes_[best.lane].last_use) best.lane = lane;
  }
  if (best.shared == 0) {
    best.source = best.lane;
  } else if (best.source >= running_.size()) {
    const auto lost = [&](std::size_t lane, std::size_t shared) { return lanes_[lane].read.size() - shared; };
    if (lost(best.source, best.shared) < lost(best.lane, shared_by(lanes_[best.lane])))
      best.lane = best.source;
  }
  return best;
}

void Scheduler::swap_lanes(std::size_t a, std::size_t b) {
  if (a == b) return;
  engine_.swap(static_cast<std::int64_t>(a), static_cast<std::int64_t>(b));
  std::swap(lanes_[a], lanes_[b]);
}

void Scheduler::swap_running(std::size_t a, std::size_t b) {
  swap_lanes(a, b);
  std::swap(running_[a], running_[b]);
}

bool Scheduler::start_lane(Generation& generation) {
  const std::size_t lane = running_.size();
  const GenerationRequest& request = generation.request_;
  Beginning begin = find_beginning(request.prompt);
  swap_lanes(lane, begin.lane);
  if (begin.source == begin.lane) {
    begin.source = lane;
  } else if (begin.source == lane) {
    begin.source = begin.lane;
  }
  if (request.prompt_logprobs) begin.shared = 0;  // what follows each of its tokens is asked for
  std::optional<std::int64_t> kept;
  while (true) {
    const bool shares = begin.shared > 0;
    kept = engine_.start({.lane = static_cast<std::int64_t>(lane),
                          .source = static_cast<std::int64_t>(shares ? begin.source : lane),
                          .shared = static_cast<std::int64_t>(begin.shared),
                          .positions = std::ssize(request.prompt) + request.max_tokens});
    if (kept) break;
    if (shares &&
        begin.source > lane) {  // free, and most of it is in the beginning: better than another's text
      swap_lanes(lane, begin.source);
      begin.source = lane;
    } else if (!drop_oldest(lane)) {
      return false;
    }
  }
  const auto length = static_cast<std::size_t>(*kept);
  lanes_[lane].read.assign(request.prompt.begin(), request.prompt.begin() + *kept);
  lanes_[lane].last_use = ++uses_;
  generation.taken_ = length;
  generation.reused_ = *kept;
  return true;
}

// Of the free lanes beside this one, the one that was used the longest ago forgets what it has read.
bool Scheduler::drop_oldest(std::size_t lane) {
  std::optional<std::size_t> oldest;
  for (std::size_t free = lane + 1; free < lanes_.size(); ++free) {
    if (lanes_[free].read.empty()) continue;
    if (!oldest || lanes_[free].last_use < lanes_[*oldest].last_use) oldest = free;
  }
  if (!oldest) return false;
  engine_.drop(static_cast<std::int64_t>(*oldest));
  lanes_[*oldest].read.clear();
  return true;
}

// The prompt that is read next comes first behind the answers.
void Scheduler::take_turns() {
  if (running_.size() - decoding_ > 1) swap_running(decoding_, running_.size() - 1);
}

// What follows each token of a prompt is known of a pass of its own alone.
bool Scheduler::joins() const {
  return decoding_ > 0 && engine_.joins_prompts() && !running_[decoding_]->request_.prompt_logprobs;
}

std::span<const std::int32_t> Scheduler::next_chunk() const {
  const Generation& generation = *running_[decoding_];
  const std::size_t free_lanes = lanes_.size() - running_.size();
  std::size_t prompts = running_.size() - decoding_;
  {
    const std::lock_guard lock(mutex_);
    prompts += std::min(waiting_.size(), free_lanes);
  }
  const std::int64_t paced = pace_.next(num_decoding(), static_cast<std::int64_t>(prompts));
  const std::int64_t chunk = generation.request_.prompt_logprobs ? std::min(kScoredChunk, paced) : paced;
  const auto rest = std::span(generation.request_.prompt).subspan(generation.taken_);
  return rest.first(std::min(rest.size(), static_cast<std::size_t>(chunk)));
}

void Scheduler::add_read(Generation& generation, std::span<const std::int32_t> ids) {
  generation.taken_ += ids.size();
  std::vector<std::int32_t>& read = lanes_[decoding_].read;
  read.insert(read.end(), ids.begin(), ids.end());
  const std::lock_guard lock(mutex_);
  counts_.prompt_tokens += std::ssize(ids);
}

void Scheduler::prefill() {
  Generation& generation = *running_[decoding_];
  std::span<const float> logits;
  try {
    logits = take_prompt(generation);
  } catch (...) {
    return fail_lanes(decoding_, decoding_ + 1, std::current_exception());
  }
  if (generation.taken_ == generation.request_.prompt.size()) advance(decoding_++, logits);
}

std::span<const float> Scheduler::take_prompt(Generation& generation) {
  const std::span<const std::int32_t> prompt(generation.request_.prompt);
  const bool scored = generation.request_.prompt_logprobs;
  const auto lane = num_decoding();
  const auto ids = next_chunk();
  const auto begin = std::chrono::steady_clock::now();
  const ConstMatrixView logits = scored ? engine_.prefill_all(lane, ids) : engine_.prefill(lane, ids);
  pace_.add_chunk(std::ssize(ids), seconds_since(begin));
  if (scored && generation.taken_ == 0) generation.push({.token = prompt[0], .of_prompt = true});
  for (std::size_t row = 0; scored && row < ids.size(); ++row) {
    const std::size_t next = generation.taken_ + row + 1;
    if (next == prompt.size()) break;
    const auto row_logits = logits.row_span(static_cast<std::int64_t>(row));
    generation.push(
        {.token = prompt[next],
         .of_prompt = true,
         .chances = token_chances(row_logits, prompt[next], generation.request_.logprobs.value_or(0))});
  }
  add_read(generation, ids);
  return logits.row_span(logits.rows - 1);
}

void Scheduler::step(std::span<const std::int32_t> chunk) {
  const std::size_t answers = decoding_;
  ConstMatrixView logits;
  try {
    std::vector<std::int32_t> ids;
    for (std::size_t lane = 0; lane < answers; ++lane) ids.push_back(running_[lane]->last_);
    const auto begin = std::chrono::steady_clock::now();
    logits = chunk.empty() ? engine_.decode(ids) : engine_.decode_beside(ids, num_decoding(), chunk);
    const double seconds = seconds_since(begin);
    chunk.empty() ? pace_.add_step(num_decoding(), seconds)
                  : pace_.add_both(num_decoding(), std::ssize(chunk), seconds);
    for (std::size_t lane = 0; lane < answers; ++lane) lanes_[lane].read.push_back(ids[lane]);
  } catch (...) {
    // How far each lane got is unknown.
    return fail_lanes(0, answers + (chunk.empty() ? 0 : 1), std::current_exception());
  }
  if (!chunk.empty()) {
    Generation& generation = *running_[answers];
    add_read(generation, chunk);
    if (generation.taken_ == generation.request_.prompt.size()) ++decoding_;
  }
  {
    const std::lock_guard lock(mutex_);
    ++counts_.steps;
  }
  // From the back: removing a lane moves the last one into its place, whose token is drawn already.
  for (std::size_t lane = decoding_; lane-- > 0;)
    advance(lane, logits.row_span(static_cast<std::int64_t>(lane)));
}

void Scheduler::advance(std::size_t lane, std::span<const float> logits) {
  if (running_[lane]->request_.max_tokens == 0) return remove(lane, FinishReason::kLength);
  std::optional<FinishReason> reason;
  try {
    reason = next_token(*running_[lane], logits);
  } catch (...) {
    return fail_lanes(lane, lane + 1, std::current_exception());
  }
  if (reason) remove(lane, *reason);
}

std::optional<FinishReason> Scheduler::next_token(Generation& generation, std::span<const float> logits) {
  const GenerationRequest& request = generation.request_;
  const TokenChooser::Choice choice = generation.chooser_.next(logits);
  if (choice.ends) return FinishReason::kStop;
  generation.last_ = choice.token;
  ++generation.produced_;
  Generation::Event event{.token = choice.token};
  if (request.logprobs) event.chances = token_chances(logits, choice.token, *request.logprobs);
  generation.push(std::move(event));
  {
    const std::lock_guard lock(mutex_);
    ++counts_.generated_tokens;
  }
  if (choice.complete) return FinishReason::kStop;
  if (generation.produced_ >= request.max_tokens) return FinishReason::kLength;
  return std::nullopt;
}

void Scheduler::fail_lanes(std::size_t first, std::size_t last, const std::exception_ptr& exception) {
  if (interrupted()) return stop();
  const Failure failure = failure_of(exception);
  if (failure.engine_lost) std::rethrow_exception(exception);
  for (std::size_t lane = last; lane-- > first;) {
    lanes_[lane].read.clear();  // how far its state got is unknown
    remove(lane, failure.reason, failure.message);
  }
}

void Scheduler::remove_done() {
  const auto now = std::chrono::steady_clock::now();
  using Wanted = Generation::Wanted;
  for (std::size_t lane = running_.size(); lane-- > 0;) {
    const Generation& generation = *running_[lane];
    if (generation.wanted_ == Wanted::kNothing) {
      remove(lane, FinishReason::kCancelled);
    } else if (generation.wanted_ == Wanted::kNoMore) {
      remove(lane, FinishReason::kStop);
    } else if (now > generation.deadline_) {
      remove(lane, FinishReason::kTimeout);
    }
  }
  const std::lock_guard lock(mutex_);
  std::erase_if(waiting_, [&](const std::shared_ptr<Generation>& generation) {
    const bool late = now > generation->deadline_;
    if (late) generation->finish(FinishReason::kTimeout, "");
    if (!late && generation->wanted_ == Wanted::kAll) return false;
    ++(late ? counts_.timed_out : counts_.cancelled);
    out_of_memory_ = false;  // it may have been the first, and the next needs less
    return true;
  });
}

void Scheduler::remove(std::size_t lane, FinishReason reason, const std::string& message) {
  const std::shared_ptr<Generation> generation = running_[lane];
  const auto swap = [&](std::size_t other) {
    swap_running(lane, other);
    lane = other;
  };
  if (lane < decoding_) swap(--decoding_);  // behind the lanes that go on decoding
  swap(running_.size() - 1);
  running_.pop_back();
  const auto freed = static_cast<std::int64_t>(lane);
  lanes_[lane].read.empty() ? engine_.drop(freed) : engine_.trim(freed);
  out_of_memory_ = false;
  {
    const std::lock_guard lock(mutex_);
    counts_.cache = engine_.cache_memory();
    counts_.running = std::ssize(running_);
    switch (reason) {
      case FinishReason::kStop:
      case FinishReason::kLength:
        ++counts_.finished;
        break;
      case FinishReason::kCancelled:
        ++counts_.cancelled;
        break;
      case FinishReason::kTimeout:
        ++counts_.timed_out;
        break;
      default:
        ++counts_.failed;
    }
  }
  generation->finish(reason, message);
}

}  // namespace swiftprune
