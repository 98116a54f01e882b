// The version of these headers, for #if. SWIFTPRUNE_VERSION, which comes with the CMake target, is the same as text.
// 0.x: every minor version may change any header; a patch changes none. CMake compares it with the project's.
#pragma once

#define SWIFTPRUNE_VERSION_MAJOR 0
#define SWIFTPRUNE_VERSION_MINOR 1
#define SWIFTPRUNE_VERSION_PATCH 0
