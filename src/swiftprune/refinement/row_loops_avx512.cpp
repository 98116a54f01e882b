#include "swiftprune/refinement/row_loops.h"
#include "swiftprune/refinement/row_loops.inc"

namespace swiftprune {

const RowLoops kAvx512RowLoops = SWIFTPRUNE_ROW_LOOPS;

}  // namespace swiftprune
