// The operators of ocp_scn/ops for CPUs, as plain C functions on raw memory; reference.py says what they compute,
// operators.py calls them.
//
// What they do with a range of rows, edges or atoms is in ranges.h, once for each instruction set; the best that the
// processor has is taken. Threads are those of the OpenMP library that torch has loaded.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#define INLINE inline __attribute__((always_inline))

typedef uint16_t bfloat16;  // its bits: the upper half of a float's

// Truncated Wigner matrices: of each edge `size` numbers, degree by degree, (2 min(l, mmax) + 1) x (2 l + 1).
struct Wigner {
    const float *packed;
    int64_t size, lmax, mmax;
    const float *of(int64_t edge) const { return packed + edge * size; }
};

// Where the `kept` coefficients of each of an edge's `ends` lie: rows of parts of which each has `size` rows of every
// edge, after parts with `before`.
struct Row {
    int64_t before, size, which;
    int64_t of(int64_t edge, int64_t edges) const { return before * edges + edge * size + which; }
};

struct Rows {
    const Row *table;
    int64_t ends, kept, edges;
    const Row *of(int64_t end) const { return table + end * kept; }
};

// The rows of an edge that are mixed for its taps, one after the other in some tensors.
struct First {
    First(void *const *parts, const int64_t *sizes, int64_t number, int64_t channels, int64_t bytes) {
        for (int64_t part = 0, w = 0; w < number; part++)
            for (int64_t k = 0; k < sizes[part]; k++, w++) {
                starts.push_back(static_cast<char *>(parts[part]) + k * channels * bytes);
                strides.push_back(sizes[part] * channels);
            }
    }
    template <typename T>
    T *row(int64_t w, int64_t edge) const {
        return static_cast<T *>(starts[w]) + edge * strides[w];
    }
    std::vector<void *> starts;
    std::vector<int64_t> strides;
};

// The factors of `number` rows in each of `taps` sums.
struct Mixing {
    int64_t taps, number;
    const float *factors;
};

// How `kept` coefficients of each of `taps` rolls enter their mean: coefficient s of roll t counts cos[t, s] times in
// itself, and sin[t, s] times in coefficient opposite[s], which is s if there is no other.
struct Mean {
    int64_t taps, kept;
    const float *cos, *sin;
    const int64_t *opposite;
};

namespace any {
constexpr int64_t WIDTH = 4;  // numbers in a vector
#include "ranges.h"
}  // namespace any

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC push_options
#pragma GCC target("avx2,fma")
namespace avx2 {
constexpr int64_t WIDTH = 8;
#include "ranges.h"
}  // namespace avx2
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f")
namespace avx512 {
constexpr int64_t WIDTH = 16;
#include "ranges.h"
}  // namespace avx512
#pragma GCC pop_options
#define CALL(function, ...)                                    \
    (instruction_set == 2   ? avx512::function<T>(__VA_ARGS__) \
     : instruction_set == 1 ? avx2::function<T>(__VA_ARGS__)   \
                            : any::function<T>(__VA_ARGS__))
static int best() {
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f")) return 2;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? 1 : 0;
}
#else
#define CALL(function, ...) any::function<T>(__VA_ARGS__)
static int best() { return 0; }
#endif

namespace {

int instruction_set = best();

// Calls work(begin, end) on ranges of 0..size that begin at multiples of `step`. A thread has one range, which the next
// kernel finds in its cache.
template <typename Work>
void in_ranges(int64_t size, int64_t step, int threads, const Work &work) {
    const int64_t steps = (size + step - 1) / step, ranges = steps < threads ? steps : threads;
    if (threads <= 1 || ranges <= 1) return work(0, size);
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int64_t range = 0; range < ranges; range++) {
        const int64_t end = steps * (range + 1) / ranges * step;
        work(steps * range / ranges * step, end < size ? end : size);
    }
}

// Calls work(begin, end) on ranges of atoms with as many edges each: a chunk's edges may end at few of many atoms.
template <typename Work>
void in_ranges_of_edges(const int64_t *starts, int64_t num_atoms, int threads, const Work &work) {
    const int64_t ranges = 4 * threads, num_edges = starts[num_atoms];
    if (threads <= 1) return work(0, num_atoms);
    const auto border = [=](int64_t range) {
        if (range == 0 || range == ranges) return range == 0 ? int64_t(0) : num_atoms;
        return int64_t(std::lower_bound(starts, starts + num_atoms, num_edges * range / ranges) - starts);
    };
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int64_t range = 0; range < ranges; range++) work(border(range), border(range + 1));
}

// Rows of which it is worth while to give a thread some.
int64_t rows_for_a_thread(int64_t width) { return width < 8192 ? 8192 / (width > 0 ? width : 1) : 1; }

// Room for vectors of any width.
struct Memory {
    static constexpr size_t LARGEST = 64;  // bytes of a vector
    explicit Memory(int64_t vectors) : bytes((vectors + 1) * LARGEST), start(bytes.data()) {
        size_t space = bytes.size();
        std::align(LARGEST, vectors * LARGEST, start, space);
    }
    std::vector<char> bytes;
    void *start;
};

// Calls work with a number of the precision.
template <typename Work>
void in_precision(int is_bfloat16, const Work &work) {
    is_bfloat16 ? work(bfloat16{}) : work(float{});
}

template <typename T>
const T *numbers(const void *memory) {
    return static_cast<const T *>(memory);
}
template <typename T>
T *numbers(void *memory) {
    return static_cast<T *>(memory);
}

}  // namespace

extern "C" {

uint32_t ocp_scn_source() { return SOURCE_CRC32; }

// Instruction sets are 0 for any processor, 1 for AVX2, 2 for AVX-512.
int ocp_scn_best() { return best(); }
void ocp_scn_take(int wanted) { instruction_set = wanted; }

// Returns 1 if an edge has an atom that does not exist, else 0.
int ocp_scn_node_to_edge(int is_bfloat16, const float *x, int64_t num_atoms, int64_t atom_stride, int64_t channels,
                         const int64_t *atom, const float *packed, int64_t size, int64_t lmax, int64_t mmax,
                         const Row *table, int64_t ends, int64_t kept, void *v, int64_t num_edges, int threads) {
    int missing = 0, *const flag = &missing;
    const Wigner wigner{packed, size, lmax, mmax};
    const Rows rows{table, ends, kept, num_edges};
    in_precision(is_bfloat16, [=](auto number) {
        using T = decltype(number);
        in_ranges(num_edges, 8, threads, [=](int64_t begin, int64_t end) {
            CALL(node_to_edge, x, num_atoms, atom_stride, channels, atom, wigner, rows, numbers<T>(v), flag, begin, end);
        });
    });
    return missing;
}

void ocp_scn_edge_to_node(int is_bfloat16, float *sums, int64_t atom_stride, int64_t channels, const int64_t *order,
                          const int64_t *starts, const float *packed, int64_t size, int64_t lmax, int64_t mmax,
                          const Row *table, int64_t ends, int64_t kept, int64_t num_edges, const void *v, int add,
                          int64_t num_atoms, int threads) {
    const Wigner wigner{packed, size, lmax, mmax};
    const Rows rows{table, ends, kept, num_edges};
    in_precision(is_bfloat16, [=](auto number) {
        using T = decltype(number);
        in_ranges_of_edges(starts, num_atoms, threads, [=](int64_t begin, int64_t end) {
            const Memory memory(4 * (lmax + 1) * (lmax + 1));
            CALL(edge_to_node, sums, atom_stride, channels, order, starts, wigner, rows, numbers<T>(v), add,
                 memory.start, begin, end);
        });
    });
}

int ocp_scn_wigner_gradient(int is_bfloat16, const void *v, const float *x, int64_t num_atoms, int64_t atom_stride,
                            int64_t channels, const int64_t *atom, int64_t size, int64_t lmax, int64_t mmax,
                            const Row *table, int64_t ends, int64_t kept, float *result, int64_t num_edges,
                            int threads) {
    int missing = 0, *const flag = &missing;
    const Wigner wigner{nullptr, size, lmax, mmax};
    const Rows rows{table, ends, kept, num_edges};
    in_precision(is_bfloat16, [=](auto number) {
        using T = decltype(number);
        in_ranges(num_edges, 8, threads, [=](int64_t begin, int64_t end) {
            CALL(wigner_gradient, numbers<T>(v), x, num_atoms, atom_stride, channels, atom, wigner, rows, result, flag,
                 begin, end);
        });
    });
    return missing;
}

void ocp_scn_bias_silu(int is_bfloat16, const void *x, const float *bias, void *result, int64_t rows, int64_t width,
                       int threads) {
    in_precision(is_bfloat16, [=](auto number) {
        using T = decltype(number);
        in_ranges(rows, rows_for_a_thread(width), threads, [=](int64_t begin, int64_t end) {
            CALL(bias_silu, numbers<T>(x), bias, numbers<T>(result), width, begin, end);
        });
    });
}

void ocp_scn_bias_silu_backward(int is_bfloat16, const void *gradient, const void *x, const float *bias, void *result,
                                int64_t rows, int64_t width, int threads) {
    in_precision(is_bfloat16, [=](auto number) {
        using T = decltype(number);
        in_ranges(rows, rows_for_a_thread(width), threads, [=](int64_t begin, int64_t end) {
            CALL(bias_silu_backward, numbers<T>(gradient), numbers<T>(x), bias, numbers<T>(result), width, begin, end);
        });
    });
}

void ocp_scn_gate(int is_bfloat16, void *const *parts, const int64_t *sizes, const float *factors, int64_t taps,
                  int64_t number, const float *bias, const void *gate, const float *gate_bias, void *result,
                  int64_t channels, int64_t num_edges, int threads) {
    const Mixing mixing{taps, number, factors};
    in_precision(is_bfloat16, [=](auto precision) {
        using T = decltype(precision);
        const First first(parts, sizes, number, channels, sizeof(T));
        in_ranges(num_edges, 1, threads, [=, &first](int64_t begin, int64_t end) {
            CALL(gate, first, mixing, bias, numbers<T>(gate), gate_bias, numbers<T>(result), channels, begin, end);
        });
    });
}

void ocp_scn_gate_backward(int is_bfloat16, const void *gradient, void *const *parts, const int64_t *sizes,
                           const float *factors, int64_t taps, int64_t number, const float *bias, const void *gate,
                           const float *gate_bias, void *const *results, void *of_gate, int64_t channels,
                           int64_t num_edges, int threads) {
    const Mixing mixing{taps, number, factors};
    in_precision(is_bfloat16, [=](auto precision) {
        using T = decltype(precision);
        const First first(parts, sizes, number, channels, sizeof(T)), of_first(results, sizes, number, channels, sizeof(T));
        in_ranges(num_edges, 1, threads, [=, &first, &of_first](int64_t begin, int64_t end) {
            const Memory memory(number);
            CALL(gate_backward, first, mixing, bias, numbers<T>(gate), gate_bias, numbers<T>(gradient), of_first,
                 numbers<T>(of_gate), channels, memory.start, begin, end);
        });
    });
}

void ocp_scn_tap_mean(int is_bfloat16, const void *values, const float *bias, int64_t taps, int64_t kept,
                      const float *cos, const float *sin, const int64_t *opposite, int64_t channels, float *result,
                      int64_t num_edges, int threads) {
    const Mean mean{taps, kept, cos, sin, opposite};
    in_precision(is_bfloat16, [=](auto number) {
        using T = decltype(number);
        in_ranges(num_edges, 1, threads, [=](int64_t begin, int64_t end) {
            CALL(tap_mean, numbers<T>(values), bias, mean, channels, result, begin, end);
        });
    });
}

void ocp_scn_tap_mean_backward(int is_bfloat16, const float *gradient, const void *values, const float *bias,
                               int64_t taps, int64_t kept, const float *cos, const float *sin, const int64_t *opposite,
                               int64_t channels, void *result, int64_t num_edges, int threads) {
    const Mean mean{taps, kept, cos, sin, opposite};
    in_precision(is_bfloat16, [=](auto number) {
        using T = decltype(number);
        in_ranges(num_edges, 1, threads, [=](int64_t begin, int64_t end) {
            CALL(tap_mean_backward, gradient, numbers<T>(values), bias, mean, channels, numbers<T>(result), begin, end);
        });
    });
}
}
