#include "swiftprune/refinement/row_loops.h"
#include "swiftprune/refinement/row_loops.inc"

namespace swiftprune {

const RowLoops kBaselineRowLoops = SWIFTPRUNE_ROW_LOOPS;

}  // namespace swiftprune
