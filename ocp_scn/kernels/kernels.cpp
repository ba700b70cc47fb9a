// SiLU, rotations between atoms and edge frames, and sums over taps, for processors. Plain C functions on raw memory;
// ocp_scn/kernels/__init__.py checks and calls them, and says what they compute.
//
// What they do with a range of rows, edges or atoms is in ranges.h, once for each instruction set; the best that the
// processor has is taken. Threads are those of the OpenMP library that torch has loaded.

#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#define INLINE inline __attribute__((always_inline))

typedef uint16_t bfloat16;  // its bits: the upper half of a float's

// Where one kept coefficient of an edge's frame lies: C numbers at `row` * C among those that the edge has in `part`.
// If `twin` is no less than 0, they lie there once more, times `sign`.
struct Row {
    int64_t part, row, twin;
    float sign;
};

// Tensors of edges: of each edge sizes[p] * C numbers in parts[p].
struct Parts {
    void *const *parts;
    const int64_t *sizes;
    const Row *rows;
};

// The kept rows of Wigner matrices: of each edge `size` numbers, degree by degree, (2 min(l, mmax) + 1) x (2 l + 1).
struct Rotations {
    const float *blocks;
    int64_t size, lmax, mmax;
};

// The sums that make a roll about the edge of what orders of m = 0, 1, ... give: of each of `taps` rolls `number`
// factors.
struct Waves {
    int64_t taps, number;
    const float *factors;
};

// How `kept` coefficients of each of `taps` rolls enter their mean: coefficient s of roll t counts own[t, s] times in
// itself, and cross[t, s] times in coefficient partner[s], which is s if there is no other.
struct Mean {
    int64_t taps, kept;
    const float *own, *cross;
    const int64_t *partner;
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
// kernel finds in its cache, or `ranges` of them in turns with the others, where some have much more to do.
template <typename Work>
void in_ranges(int64_t size, int64_t step, int threads, const Work &work, int64_t ranges = 1) {
    const int64_t steps = (size + step - 1) / step;
    ranges = steps < ranges * threads ? steps : ranges * threads;
    if (threads <= 1 || ranges <= 1) return work(0, size);
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int64_t range = 0; range < ranges; range++) {
        const int64_t end = steps * (range + 1) / ranges * step;
        work(steps * range / ranges * step, end < size ? end : size);
    }
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

void ocp_scn_silu(int is_bfloat16, const void *x, const void *bias, void *result, int64_t rows, int64_t width,
                  int threads) {
    in_precision(is_bfloat16, [=](auto number) {
        using T = decltype(number);
        in_ranges(rows, rows_for_a_thread(width), threads, [=](int64_t begin, int64_t end) {
            CALL(silu_of_rows, numbers<T>(x), numbers<T>(bias), numbers<T>(result), width, begin, end);
        });
    });
}

void ocp_scn_silu_derivative(int is_bfloat16, const void *x, const void *bias, const void *gradient, void *result,
                             int64_t rows, int64_t width, int threads) {
    in_precision(is_bfloat16, [=](auto number) {
        using T = decltype(number);
        in_ranges(rows, rows_for_a_thread(width), threads, [=](int64_t begin, int64_t end) {
            CALL(derivative_of_rows, numbers<T>(x), numbers<T>(bias), numbers<T>(gradient), numbers<T>(result), width,
                 begin, end);
        });
    });
}

void ocp_scn_gated(int is_bfloat16, void *const *tensors, const int64_t *sizes, const Row *rows, int64_t number,
                   const float *factors, int64_t taps, const void *bias, const void *gate, const void *gate_bias,
                   void *result, int64_t channels, int64_t num_edges, int threads) {
    const Parts first{tensors, sizes, rows};
    const Waves waves{taps, number, factors};
    in_precision(is_bfloat16, [=](auto precision) {
        using T = decltype(precision);
        in_ranges(num_edges, 1, threads, [=](int64_t begin, int64_t end) {
            CALL(gated, first, waves, numbers<T>(bias), numbers<T>(gate), numbers<T>(gate_bias), numbers<T>(result),
                 channels, begin, end);
        });
    });
}

void ocp_scn_gated_derivative(int is_bfloat16, void *const *tensors, const int64_t *sizes, const Row *rows,
                              int64_t number, const float *factors, int64_t taps, const void *bias, const void *gate,
                              const void *gate_bias, const void *gradient, void *const *results, void *of_gate,
                              int64_t channels, int64_t num_edges, int threads) {
    const Parts first{tensors, sizes, rows}, of_first{results, sizes, rows};
    const Waves waves{taps, number, factors};
    in_precision(is_bfloat16, [=](auto precision) {
        using T = decltype(precision);
        in_ranges(num_edges, 1, threads, [=](int64_t begin, int64_t end) {
            const Memory memory(number);
            CALL(gated_derivative, first, waves, numbers<T>(bias), numbers<T>(gate), numbers<T>(gate_bias),
                 numbers<T>(gradient), of_first, numbers<T>(of_gate), channels, memory.start, begin, end);
        });
    });
}

void ocp_scn_average(int is_bfloat16, const void *values, const float *bias, int64_t taps, int64_t kept,
                     const float *own, const float *cross, const int64_t *partner, int64_t channels, float *result,
                     int64_t num_edges, int threads) {
    const Mean mean{taps, kept, own, cross, partner};
    in_precision(is_bfloat16, [=](auto number) {
        using T = decltype(number);
        in_ranges(num_edges, 1, threads, [=](int64_t begin, int64_t end) {
            CALL(average, numbers<T>(values), bias, mean, channels, result, begin, end);
        });
    });
}

void ocp_scn_average_derivative(int is_bfloat16, const void *values, const float *bias, int64_t taps, int64_t kept,
                                const float *own, const float *cross, const int64_t *partner, int64_t channels,
                                const float *gradient, void *result, int64_t num_edges, int threads) {
    const Mean mean{taps, kept, own, cross, partner};
    in_precision(is_bfloat16, [=](auto number) {
        using T = decltype(number);
        in_ranges(num_edges, 1, threads, [=](int64_t begin, int64_t end) {
            CALL(spread_to_taps, numbers<T>(values), bias, mean, channels, gradient, numbers<T>(result), begin, end);
        });
    });
}

void ocp_scn_turn(int is_bfloat16, const float *x, int64_t atom_stride, int64_t channels, const int64_t *atoms,
                  const float *blocks, int64_t size, int64_t lmax, int64_t mmax, void *const *tensors,
                  const int64_t *sizes, const Row *rows, int64_t num_edges, int threads) {
    const Rotations rotations{blocks, size, lmax, mmax};
    const Parts parts{tensors, sizes, rows};
    in_precision(is_bfloat16, [=](auto number) {
        using T = decltype(number);
        in_ranges(num_edges, 8, threads, [=](int64_t begin, int64_t end) {
            CALL(turn, x, atom_stride, channels, atoms, rotations, parts, begin, end);
        });
    });
}

void ocp_scn_sum(int is_bfloat16, float *result, int64_t atom_stride, int64_t channels, const int64_t *edges,
                 const int64_t *starts, const float *blocks, int64_t size, int64_t lmax, int64_t mmax,
                 void *const *tensors, const int64_t *sizes, const Row *rows, int add, int64_t num_atoms, int threads) {
    const Rotations rotations{blocks, size, lmax, mmax};
    const Parts parts{tensors, sizes, rows};
    const auto work = [=](auto number) {
        using T = decltype(number);
        const auto on_range = [=](int64_t begin, int64_t end) {
            const Memory memory(4 * (lmax + 1) * (lmax + 1));
            CALL(sum, result, atom_stride, channels, edges, starts, rotations, parts, add, memory.start, begin, end);
        };
        in_ranges(num_atoms, 1, threads, on_range, 4);  // a group's edges end at few atoms side by side
    };
    in_precision(is_bfloat16, work);
}
}
