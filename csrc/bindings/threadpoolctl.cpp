// What threadpoolctl looks for in a loaded library, so that threadpool_limits() governs octavo too.
#include "runtime/thread_pool.h"

#if defined(_WIN32)
#define OCTAVO_EXPORT extern "C" __declspec(dllexport)
#else
#define OCTAVO_EXPORT extern "C" __attribute__((visibility("default")))
#endif

OCTAVO_EXPORT int octavo_get_num_threads() { return octavo::default_threads(); }
OCTAVO_EXPORT void octavo_set_num_threads(int threads) { octavo::set_default_threads(threads); }
OCTAVO_EXPORT const char* octavo_get_version() { return OCTAVO_VERSION; }
