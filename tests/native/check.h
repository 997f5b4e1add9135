// What the native tests share: a seeded generator, cases that print themselves as a line which
// repeats them, and a count of failures.
//
//   test_kernels                      every table that this machine supports
//   test_kernels --isa avx2           one table
//   test_kernels --case "gemm m=3 .." one case again, as a failure printed it
//
// OCTAVO_EXPECT_ISA names the table that must be the default one; OCTAVO_IN_QEMU=1 shrinks shapes.
#pragma once

#include <csignal>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "guard_page.h"
#include "isa/features.h"
#include "kernels/table.h"
#include "runtime/dispatch.h"

namespace octavo {

// splitmix64 (Steele, Lea, Flood 2014): the same numbers everywhere.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t next() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  // In [0, count).
  int64_t below(int64_t count) {
    return static_cast<int64_t>(next() % static_cast<uint64_t>(count));
  }
  int64_t between(int64_t least, int64_t greatest) { return least + below(greatest - least + 1); }
  bool chance(int64_t one_in) { return below(one_in) == 0; }
  double unit() { return static_cast<double>(next() >> 11) * 0x1p-53; }
  template <class T, size_t kCount>
  T pick(const T (&values)[kCount]) {
    return values[below(kCount)];
  }

 private:
  uint64_t state_;
};

// A case is a struct of int64_t fields, listed once; OCTAVO_CASE gives it its line and its parser.
#define OCTAVO_CASE_FIELD(field) int64_t field = 0;
#define OCTAVO_CASE_VISIT(field) visit(#field, field);
#define OCTAVO_CASE(Name, label, FIELDS)        \
  struct Name {                                 \
    FIELDS(OCTAVO_CASE_FIELD)                   \
    static const char* name() { return label; } \
    template <class Visit>                      \
    void each(Visit visit) {                    \
      FIELDS(OCTAVO_CASE_VISIT)                 \
    }                                           \
  };

template <class Case>
std::string case_line(Case c) {
  std::string line = Case::name();
  c.each([&](const char* field, int64_t value) {
    line += std::string(" ") + field + "=" + std::to_string(value);
  });
  return line;
}

// True, and `c` filled, if `line` is a case of this kind; fields that are not named stay.
template <class Case>
bool parse_case(const std::string& line, Case& c) {
  const std::string padded = line + " ";
  if (padded.compare(0, std::strlen(Case::name()) + 1, std::string(Case::name()) + " ") != 0) {
    return false;
  }
  c.each([&](const char* field, int64_t& value) {
    const std::string key = std::string(" ") + field + "=";
    const size_t at = padded.find(key);
    if (at != std::string::npos)
      value = std::strtoll(padded.c_str() + at + key.size(), nullptr, 10);
  });
  return true;
}

// The case that runs now, so that a crash in a kernel names it.
struct Running {
  const char* program = "";
  const char* isa = "";
  const void* current = nullptr;
  std::string (*line)(const void*) = nullptr;
  int64_t cases = 0;
  int failures = 0;
};
inline Running running;

inline void print_repro() {
  std::fflush(stdout);
  if (!running.current) return;
  std::fprintf(stderr, "  repeat: %s --isa %s --case \"%s\"\n", running.program, running.isa,
               running.line(running.current).c_str());
  std::fflush(stderr);
}

template <class Case>
class CaseScope {
 public:
  CaseScope(const KernelTable& table, const Case& c) {
    running.isa = table.info->name;
    running.current = &c;
    running.line = [](const void* current) {
      return case_line(*static_cast<const Case*>(current));
    };
    ++running.cases;
  }
  ~CaseScope() { running.current = nullptr; }
  CaseScope(const CaseScope&) = delete;
  CaseScope& operator=(const CaseScope&) = delete;
};

// Counts and prints a failure with the line that repeats it; gives up at the tenth.
[[gnu::format(printf, 1, 2)]] inline void fail(const char* format, ...) {
  std::fprintf(stderr, "FAILED [%s] ", running.isa);
  va_list arguments;
  va_start(arguments, format);
  std::vfprintf(stderr, format, arguments);
  va_end(arguments);
  std::fputc('\n', stderr);
  print_repro();
  if (++running.failures >= 10) {
    std::fprintf(stderr, "ten failures; stopped\n");
    std::exit(1);
  }
}

#define OCTAVO_CHECK(condition, ...)     \
  do {                                   \
    if (!(condition)) fail(__VA_ARGS__); \
  } while (false)

inline bool in_qemu() {
  const char* value = std::getenv("OCTAVO_IN_QEMU");
  return value && std::strcmp(value, "1") == 0;
}

}  // namespace octavo

// There in builds with sanitizers alone.
extern "C" [[gnu::weak]] void __sanitizer_set_death_callback(void (*callback)());

namespace octavo {

// A read or write beyond an operand hits a guard page: name the case, then die as before.
inline void name_case_on_crash() {
  if (__sanitizer_set_death_callback) __sanitizer_set_death_callback(print_repro);
  for (const int number : {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT}) {
    static struct sigaction previous[65];
    struct sigaction action = {};
    action.sa_handler = [](int caught) {
      std::fprintf(stderr, "FAILED [%s] signal %d\n", running.isa, caught);
      print_repro();
      sigaction(caught, &previous[caught], nullptr);
    };
    sigaction(number, &action, &previous[number]);
  }
}

// What a test's main() does: `test` each supported table, then `compare` all of them; or `repeat`
// one case.
inline int run_tests(int argc, char** argv, void (*test)(const KernelTable&),
                     void (*compare)(const std::vector<const KernelTable*>&),
                     bool (*repeat)(const KernelTable&, const std::string&)) {
  std::string only, repeated;
  running.program = argv[0];
  for (int i = 1; i < argc; ++i) {
    const std::string option = argv[i];
    std::string* value = option == "--isa" ? &only : option == "--case" ? &repeated : nullptr;
    if (!value || ++i == argc) {
      std::fprintf(stderr, "usage: %s [--isa NAME] [--case LINE]\n", argv[0]);
      return 2;
    }
    *value = argv[i];
  }
  name_case_on_crash();

  if (const char* expected = std::getenv("OCTAVO_EXPECT_ISA")) {
    const char* chosen = default_table()->info->name;
    if (std::string(expected) != chosen) {
      std::fprintf(stderr, "FAILED the default table is %s, OCTAVO_EXPECT_ISA says %s\n", chosen,
                   expected);
      return 1;
    }
    std::printf("default table: %s, as expected\n", chosen);
  }

  std::vector<const KernelTable*> tables;
  for (const KernelTable* table : all_tables()) {
    const char* name = table->info->name;
    if (!only.empty() && only != name) continue;
    if (!is_supported(*table)) {
      std::printf("SKIPPED %s: this machine has not its instructions\n", name);
      continue;
    }
    tables.push_back(table);
    // QEMU 7.2 reads all 32 bytes of a masked AVX load, and faults where the processor does not;
    // kernels take four vectors at a time, the last ones perhaps wholly masked.
    if (in_qemu() && (table->info->required & kAvx2)) GuardedBuffer::distance = 128;
  }
  if (tables.empty()) {
    std::fprintf(stderr, "FAILED no table to test%s%s\n", only.empty() ? "" : ": ", only.c_str());
    return 1;
  }
  for (const KernelTable* table : tables) {
    running.isa = table->info->name;
    if (repeated.empty()) {
      test(*table);
    } else if (!repeat(*table, repeated)) {
      std::fprintf(stderr, "no such kind of case: %s\n", repeated.c_str());
      return 2;
    }
  }
  if (repeated.empty() && only.empty()) {
    OCTAVO_CHECK(tables.size() >= 2, "only one table ran: nothing was compared");
    compare(tables);
    std::printf("%zu tables agree\n", tables.size());
  }
  if (running.failures > 0) std::fprintf(stderr, "%d failures\n", running.failures);
  return running.failures > 0 ? 1 : 0;
}

}  // namespace octavo
