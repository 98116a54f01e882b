target_sources(swiftprune PRIVATE
  scoring/scores.cpp
  scoring/score_spec.cpp
  scoring/scorer.cpp
  scoring/magnitude.cpp
  scoring/random.cpp
  scoring/paper.cpp
  scoring/contribution.cpp
  scoring/wanda.cpp
  scoring/ria.cpp
  scoring/stade.cpp
  scoring/obs.cpp)
