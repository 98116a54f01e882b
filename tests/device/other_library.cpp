// A library that says of itself that it is swiftprune's for GPUs: of the version that OTHER_VERSION gives, and empty.
extern "C" const char* swiftprune_cuda_version() { return OTHER_VERSION; }
