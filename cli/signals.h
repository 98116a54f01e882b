// Ctrl-C, SIGTERM and a lost terminal (SIGHUP) ask the running command to stop: it cleans up, says what was
// kept and ends with 128 + the signal's number. The second one ends the program at once.
#pragma once

#include <functional>
#include <stop_token>

namespace swiftprune::cli {

// Once, before any other thread is started: every thread leaves these signals to one that waits for them,
// since a stop source cannot be told from a signal handler. SIGHUP stays ignored under nohup.
void watch_signals();
// A model's file that becomes shorter while it is read (SIGBUS) ends the program with a message that names it and the
// exit code of bad input, in place of a crash. What was being written stays under its temporary name.
void watch_lost_files();
// While it lives, Ctrl-C (SIGINT) calls this, in another thread; false: the program is to stop, as without it. The other
// signals stay as they are. One at a time.
class InterruptTaker {
 public:
  explicit InterruptTaker(std::function<bool()> take);
  InterruptTaker(const InterruptTaker&) = delete;
  InterruptTaker& operator=(const InterruptTaker&) = delete;
  ~InterruptTaker();  // waits for a call that is under way
};
// Of the whole program; commands work under it (command.h: apply).
std::stop_token program_stop();
// The signal that asked to stop; 0 for none.
int stopping_signal();

}  // namespace swiftprune::cli
