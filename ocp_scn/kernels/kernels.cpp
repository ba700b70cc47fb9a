// SiLU, and rotations between atoms and edge frames, for processors. Plain C functions on raw memory;
// ocp_scn/kernels/__init__.py checks and calls them, and says what they compute.
//
// Loops over vectors of 16 numbers are compiled for several instruction sets, of which the loader takes the best
// that the processor has. Threads are those of the OpenMP library that torch has loaded.

#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#if defined(__x86_64__) && defined(__gnu_linux__) && !defined(__clang__)
#define FOR_EACH_PROCESSOR __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif
#define INLINE inline __attribute__((always_inline))

namespace {

constexpr int64_t WIDTH = 16;  // numbers in a vector
typedef float Vector __attribute__((vector_size(64)));
typedef int32_t Integers __attribute__((vector_size(64)));
typedef uint32_t Words __attribute__((vector_size(64)));
typedef uint16_t Halves __attribute__((vector_size(32)));

typedef uint16_t bfloat16;  // its bits: the upper half of a float's

INLINE void load(Vector &v, const float *from) { memcpy(&v, from, sizeof v); }

INLINE void load(Vector &v, const bfloat16 *from) {
    Halves halves;
    memcpy(&halves, from, sizeof halves);
    const Words words = __builtin_convertvector(halves, Words) << 16;
    memcpy(&v, &words, sizeof v);
}

INLINE void store(float *to, const Vector &v) { memcpy(to, &v, sizeof v); }

INLINE void store(bfloat16 *to, const Vector &v) {
    Words words;
    memcpy(&words, &v, sizeof v);
    words = (words + 0x7fff + ((words >> 16) & 1)) >> 16;  // to nearest, ties to even
    const Halves halves = __builtin_convertvector(words, Halves);
    memcpy(to, &halves, sizeof halves);
}

// The first n < WIDTH numbers; the others of the vector are 0.
template <typename T> INLINE void load_part(Vector &v, const T *from, int64_t n) {
    T buffer[WIDTH] = {};
    memcpy(buffer, from, n * sizeof(T));
    load(v, buffer);
}

template <typename T> INLINE void store_part(T *to, const Vector &v, int64_t n) {
    T buffer[WIDTH];
    store(buffer, v);
    memcpy(to, buffer, n * sizeof(T));
}

// ---------------------------------------------------------------------------------------------- SiLU

// 1 / (1 + exp(-x)). exp is 2^n exp(r) with |r| <= ln(2) / 2 and a polynomial for exp(r); beyond |x| = 87, where exp
// leaves the range of floats, it stays what it is at 87.
INLINE void sigmoid(Vector &result, const Vector &x) {
    const Vector limit = Vector{} + 87.f;
    Vector y = x < -limit ? limit : -x;
    y = y < -limit ? -limit : y;
    const float round = 12582912.f;  // 1.5 * 2^23: a float that much larger has no fraction
    const Vector shifted = y * 1.44269504088896341f + round;
    const Vector n = shifted - round;
    const Vector r = (y - n * 0.693359375f) + n * 2.12194440e-4f;  // ln 2 in two parts, n * the first is exact
    Vector p = Vector{} + 1.f / 5040;  // Taylor's series: the next term is below 6e-9
    p = p * r + 1.f / 720;
    p = p * r + 1.f / 120;
    p = p * r + 1.f / 24;
    p = p * r + 1.f / 6;
    p = p * r + 1.f / 2;
    p = p * r + 1.f;
    p = p * r + 1.f;
    Integers bits, exponent;
    memcpy(&bits, &p, sizeof bits);
    memcpy(&exponent, &shifted, sizeof exponent);
    bits += exponent << 23;
    memcpy(&p, &bits, sizeof bits);
    result = 1.f / (1.f + p);
}

INLINE void silu(Vector &v) {
    Vector s;
    sigmoid(s, v);
    v *= s;
}

INLINE void silu_derivative(Vector &g, const Vector &x) {
    Vector s;
    sigmoid(s, x);
    g *= s * (1.f + x * (1.f - s));
}

// Rows of `width` numbers, to each of which a bias is added first unless that is null.
template <typename T>
INLINE void silu_of_rows(const T *x, const T *bias, T *result, int64_t width, int64_t begin, int64_t end) {
    Vector v, b;
    x += begin * width, result += begin * width;
    for (int64_t row = begin; row < end; row++, x += width, result += width) {
        int64_t i = 0;
        for (; i + WIDTH <= width; i += WIDTH) {
            load(v, x + i);
            if (bias) load(b, bias + i), v += b;
            silu(v);
            store(result + i, v);
        }
        if (i == width) continue;
        load_part(v, x + i, width - i);
        if (bias) load_part(b, bias + i, width - i), v += b;
        silu(v);
        store_part(result + i, v, width - i);
    }
}

template <typename T>
INLINE void derivative_of_rows(const T *x, const T *bias, const T *gradient, T *result, int64_t width, int64_t begin,
                               int64_t end) {
    Vector v, b, g;
    x += begin * width, gradient += begin * width, result += begin * width;
    for (int64_t row = begin; row < end; row++, x += width, gradient += width, result += width) {
        int64_t i = 0;
        for (; i + WIDTH <= width; i += WIDTH) {
            load(v, x + i);
            load(g, gradient + i);
            if (bias) load(b, bias + i), v += b;
            silu_derivative(g, v);
            store(result + i, g);
        }
        if (i == width) continue;
        load_part(v, x + i, width - i);
        load_part(g, gradient + i, width - i);
        if (bias) load_part(b, bias + i, width - i), v += b;
        silu_derivative(g, v);
        store_part(result + i, g, width - i);
    }
}

FOR_EACH_PROCESSOR void silu_float32(const float *x, const float *bias, float *result, int64_t width, int64_t begin,
                                     int64_t end) {
    silu_of_rows(x, bias, result, width, begin, end);
}
FOR_EACH_PROCESSOR void silu_bfloat16(const bfloat16 *x, const bfloat16 *bias, bfloat16 *result, int64_t width,
                                      int64_t begin, int64_t end) {
    silu_of_rows(x, bias, result, width, begin, end);
}
FOR_EACH_PROCESSOR void derivative_float32(const float *x, const float *bias, const float *gradient, float *result,
                                           int64_t width, int64_t begin, int64_t end) {
    derivative_of_rows(x, bias, gradient, result, width, begin, end);
}
FOR_EACH_PROCESSOR void derivative_bfloat16(const bfloat16 *x, const bfloat16 *bias, const bfloat16 *gradient,
                                            bfloat16 *result, int64_t width, int64_t begin, int64_t end) {
    derivative_of_rows(x, bias, gradient, result, width, begin, end);
}

// ----------------------------------------------------------------------------------------- rotations

}  // namespace

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

namespace {

template <typename T> INLINE T *start(const Parts &parts, int64_t part, int64_t edge, int64_t channels) {
    return static_cast<T *>(parts.parts[part]) + edge * parts.sizes[part] * channels;
}

INLINE int64_t kept_orders(int64_t degree, int64_t mmax) { return 2 * (degree < mmax ? degree : mmax) + 1; }

// N vectors of channels, or n < WIDTH numbers if N is 0.
template <int N> struct Channels {
    static constexpr int VECTORS = N ? N : 1;
    template <typename T> static INLINE void get(Vector *v, const T *from, int64_t n) {
        if constexpr (N == 0)
            load_part(*v, from, n);
        else
            for (int i = 0; i < N; i++) load(v[i], from + i * WIDTH);
    }
    template <typename T> static INLINE void put(T *to, const Vector *v, int64_t n) {
        if constexpr (N == 0)
            store_part(to, *v, n);
        else
            for (int i = 0; i < N; i++) store(to + i * WIDTH, v[i]);
    }
};

// R rows of one degree's block, for some channels of one edge.
template <typename T, int R, int N>
INLINE void turn_rows(const float *x, int64_t channels, const float *block, int64_t columns, const Parts &parts,
                      int64_t row, int64_t edge, int64_t first, int64_t n) {
    constexpr int V = Channels<N>::VECTORS;
    Vector sums[R][V] = {}, v[V];
    for (int64_t k = 0; k < columns; k++) {
        Channels<N>::get(v, x + k * channels + first, n);
        for (int r = 0; r < R; r++)
            for (int i = 0; i < V; i++) sums[r][i] += block[r * columns + k] * v[i];
    }
    for (int r = 0; r < R; r++) {
        const Row &here = parts.rows[row + r];
        T *to = start<T>(parts, here.part, edge, channels) + first;
        Channels<N>::put(to + here.row * channels, sums[r], n);
        if (here.twin >= 0) {
            for (int i = 0; i < V; i++) sums[r][i] *= here.sign;
            Channels<N>::put(to + here.twin * channels, sums[r], n);
        }
    }
}

template <typename T, int N>
INLINE void turn_channels(const float *x, int64_t channels, const Rotations &rotations, const Parts &parts,
                          int64_t edge, int64_t first, int64_t n) {
    const float *block = rotations.blocks + edge * rotations.size;
    int64_t row = 0;
    for (int64_t degree = 0; degree <= rotations.lmax; degree++) {
        const int64_t columns = 2 * degree + 1;
        const float *here = x + degree * degree * channels;
        int64_t left = kept_orders(degree, rotations.mmax);
        for (; left >= 3; left -= 3, block += 3 * columns, row += 3)
            turn_rows<T, 3, N>(here, channels, block, columns, parts, row, edge, first, n);
        if (left == 2) turn_rows<T, 2, N>(here, channels, block, columns, parts, row, edge, first, n);
        if (left == 1) turn_rows<T, 1, N>(here, channels, block, columns, parts, row, edge, first, n);
        block += left * columns;
        row += left;
    }
}

template <typename T>
INLINE void turn_range(const float *x, int64_t atom_stride, int64_t channels, const int64_t *atoms,
                       const Rotations &rotations, const Parts &parts, int64_t begin, int64_t end) {
    for (int64_t edge = begin; edge < end; edge++) {
        const float *here = x + atoms[edge] * atom_stride;
        int64_t c = 0;
        for (; c + 4 * WIDTH <= channels; c += 4 * WIDTH)
            turn_channels<T, 4>(here, channels, rotations, parts, edge, c, 0);
        for (; c + WIDTH <= channels; c += WIDTH)
            turn_channels<T, 1>(here, channels, rotations, parts, edge, c, 0);
        if (c < channels) turn_channels<T, 0>(here, channels, rotations, parts, edge, c, channels - c);
    }
}

// Adds R rows of an edge, turned back, to the sums of one degree.
template <typename T, int R, int N>
INLINE void add_rows(Vector *sums, int64_t channels, const float *block, int64_t columns, const Parts &parts,
                     int64_t row, int64_t edge, int64_t first, int64_t n) {
    constexpr int V = Channels<N>::VECTORS;
    Vector v[R][V], twin[V];
    for (int r = 0; r < R; r++) {
        const Row &here = parts.rows[row + r];
        const T *from = start<T>(parts, here.part, edge, channels) + first;
        Channels<N>::get(v[r], from + here.row * channels, n);
        if (here.twin >= 0) {
            Channels<N>::get(twin, from + here.twin * channels, n);
            for (int i = 0; i < V; i++) v[r][i] += here.sign * twin[i];
        }
    }
    for (int64_t k = 0; k < columns; k++)
        for (int i = 0; i < V; i++) {
            Vector sum = sums[k * V + i];
            for (int r = 0; r < R; r++) sum += block[r * columns + k] * v[r][i];
            sums[k * V + i] = sum;
        }
}

template <typename T, int N>
INLINE void sum_channels(float *result, int64_t channels, const int64_t *edges, int64_t num_edges,
                         const Rotations &rotations, const Parts &parts, int64_t first, int64_t n, bool add,
                         Vector *sums) {
    constexpr int V = Channels<N>::VECTORS;
    const int64_t size = (rotations.lmax + 1) * (rotations.lmax + 1);
    for (int64_t k = 0; k < size; k++) {
        if (add)
            Channels<N>::get(sums + k * V, result + k * channels + first, n);
        else
            for (int i = 0; i < V; i++) sums[k * V + i] = Vector{};
    }
    for (int64_t j = 0; j < num_edges; j++) {
        const float *block = rotations.blocks + edges[j] * rotations.size;
        int64_t row = 0;
        for (int64_t degree = 0; degree <= rotations.lmax; degree++) {
            const int64_t columns = 2 * degree + 1;
            Vector *here = sums + degree * degree * V;
            int64_t left = kept_orders(degree, rotations.mmax);
            for (; left >= 3; left -= 3, block += 3 * columns, row += 3)
                add_rows<T, 3, N>(here, channels, block, columns, parts, row, edges[j], first, n);
            if (left == 2) add_rows<T, 2, N>(here, channels, block, columns, parts, row, edges[j], first, n);
            if (left == 1) add_rows<T, 1, N>(here, channels, block, columns, parts, row, edges[j], first, n);
            block += left * columns;
            row += left;
        }
    }
    for (int64_t k = 0; k < size; k++) Channels<N>::put(result + k * channels + first, sums + k * V, n);
}

template <typename T>
INLINE void sum_range(float *result, int64_t atom_stride, int64_t channels, const int64_t *edges, const int64_t *starts,
                      const Rotations &rotations, const Parts &parts, bool add, int64_t begin, int64_t end) {
    const size_t size = 4 * (rotations.lmax + 1) * (rotations.lmax + 1) * sizeof(Vector);
    std::vector<char> memory(size + sizeof(Vector));
    void *aligned = memory.data();
    size_t space = memory.size();
    auto *sums = static_cast<Vector *>(std::align(sizeof(Vector), size, aligned, space));
    for (int64_t atom = begin; atom < end; atom++) {
        float *here = result + atom * atom_stride;
        const int64_t *own = edges + starts[atom], number = starts[atom + 1] - starts[atom];
        if (add && number == 0) continue;
        int64_t c = 0;
        for (; c + 4 * WIDTH <= channels; c += 4 * WIDTH)
            sum_channels<T, 4>(here, channels, own, number, rotations, parts, c, 0, add, sums);
        for (; c + WIDTH <= channels; c += WIDTH)
            sum_channels<T, 1>(here, channels, own, number, rotations, parts, c, 0, add, sums);
        if (c < channels)
            sum_channels<T, 0>(here, channels, own, number, rotations, parts, c, channels - c, add, sums);
    }
}

FOR_EACH_PROCESSOR void turn_float32(const float *x, int64_t atom_stride, int64_t channels, const int64_t *atoms,
                                     const Rotations &rotations, const Parts &parts, int64_t begin, int64_t end) {
    turn_range<float>(x, atom_stride, channels, atoms, rotations, parts, begin, end);
}
FOR_EACH_PROCESSOR void turn_bfloat16(const float *x, int64_t atom_stride, int64_t channels, const int64_t *atoms,
                                      const Rotations &rotations, const Parts &parts, int64_t begin, int64_t end) {
    turn_range<bfloat16>(x, atom_stride, channels, atoms, rotations, parts, begin, end);
}
FOR_EACH_PROCESSOR void sum_float32(float *result, int64_t atom_stride, int64_t channels, const int64_t *edges,
                                    const int64_t *starts, const Rotations &rotations, const Parts &parts, bool add,
                                    int64_t begin, int64_t end) {
    sum_range<float>(result, atom_stride, channels, edges, starts, rotations, parts, add, begin, end);
}
FOR_EACH_PROCESSOR void sum_bfloat16(float *result, int64_t atom_stride, int64_t channels, const int64_t *edges,
                                     const int64_t *starts, const Rotations &rotations, const Parts &parts, bool add,
                                     int64_t begin, int64_t end) {
    sum_range<bfloat16>(result, atom_stride, channels, edges, starts, rotations, parts, add, begin, end);
}

// ---------------------------------------------------------------------------------------- mean of taps

}  // namespace

// How `kept` coefficients of each of `taps` rolls enter their mean: coefficient s of roll t counts own[t, s] times in
// itself, and cross[t, s] times in coefficient partner[s], which is s if there is no other.
struct Mean {
    int64_t taps, kept;
    const float *own, *cross;
    const int64_t *partner;
};

namespace {

// Some channels of coefficients s and p, partners of each other or the same, of one edge: the values (T, S, C) are
// activated with a bias (S, C), rolled back and averaged.
template <typename T, int N>
INLINE void average_pair(const T *values, const float *bias, const Mean &mean, int64_t channels, int64_t s, int64_t p,
                         float *result, int64_t first, int64_t n) {
    const int64_t at_s = s * channels + first, at_p = p * channels + first;
    Vector v, w, bias_s, bias_p, sum_s = {}, sum_p = {};
    Channels<N>::get(&bias_s, bias + at_s, n);
    Channels<N>::get(&bias_p, bias + at_p, n);
    for (int64_t t = 0; t < mean.taps; t++, values += mean.kept * channels) {
        const float *own = mean.own + t * mean.kept, *cross = mean.cross + t * mean.kept;
        Channels<N>::get(&v, values + at_s, n);
        v += bias_s;
        silu(v);
        sum_s += own[s] * v;
        if (p == s) continue;
        Channels<N>::get(&w, values + at_p, n);
        w += bias_p;
        silu(w);
        sum_s += cross[p] * w;
        sum_p += own[p] * w + cross[s] * v;
    }
    Channels<N>::put(result + at_s, &sum_s, n);
    if (p != s) Channels<N>::put(result + at_p, &sum_p, n);
}

// The derivative by some values of coefficient s, of all rolls, from that by the mean (S, C).
template <typename T, int N>
INLINE void spread(const T *values, const float *bias, const Mean &mean, int64_t channels, int64_t s,
                   const float *gradient, T *result, int64_t first, int64_t n) {
    const int64_t p = mean.partner[s], at = s * channels + first;
    Vector v, g, bias_s, of_s, of_p;
    Channels<N>::get(&bias_s, bias + at, n);
    Channels<N>::get(&of_s, gradient + at, n);
    Channels<N>::get(&of_p, gradient + p * channels + first, n);
    for (int64_t t = 0; t < mean.taps; t++, values += mean.kept * channels, result += mean.kept * channels) {
        Channels<N>::get(&v, values + at, n);
        v += bias_s;
        g = mean.own[t * mean.kept + s] * of_s;
        if (p != s) g += mean.cross[t * mean.kept + s] * of_p;
        silu_derivative(g, v);
        Channels<N>::put(result + at, &g, n);
    }
}

template <typename T>
INLINE void average_range(const T *values, const float *bias, const Mean &mean, int64_t channels, float *result,
                          int64_t begin, int64_t end) {
    const int64_t size = mean.kept * channels;
    for (int64_t edge = begin; edge < end; edge++)
        for (int64_t s = 0; s < mean.kept; s++) {
            const T *here = values + edge * mean.taps * size;
            const int64_t p = mean.partner[s];
            int64_t c = 0;
            if (p < s) continue;  // done with its partner
            for (; c + WIDTH <= channels; c += WIDTH)
                average_pair<T, 1>(here, bias, mean, channels, s, p, result + edge * size, c, 0);
            if (c < channels)
                average_pair<T, 0>(here, bias, mean, channels, s, p, result + edge * size, c, channels - c);
        }
}

template <typename T>
INLINE void spread_range(const T *values, const float *bias, const Mean &mean, int64_t channels, const float *gradient,
                         T *result, int64_t begin, int64_t end) {
    const int64_t size = mean.kept * channels;
    for (int64_t edge = begin; edge < end; edge++)
        for (int64_t s = 0; s < mean.kept; s++) {
            const int64_t at = edge * mean.taps * size;
            const float *given = gradient + edge * size;
            int64_t c = 0;
            for (; c + WIDTH <= channels; c += WIDTH)
                spread<T, 1>(values + at, bias, mean, channels, s, given, result + at, c, 0);
            if (c < channels) spread<T, 0>(values + at, bias, mean, channels, s, given, result + at, c, channels - c);
        }
}

FOR_EACH_PROCESSOR void average_float32(const float *values, const float *bias, const Mean &mean, int64_t channels,
                                        float *result, int64_t begin, int64_t end) {
    average_range(values, bias, mean, channels, result, begin, end);
}
FOR_EACH_PROCESSOR void average_bfloat16(const bfloat16 *values, const float *bias, const Mean &mean, int64_t channels,
                                         float *result, int64_t begin, int64_t end) {
    average_range(values, bias, mean, channels, result, begin, end);
}
FOR_EACH_PROCESSOR void spread_float32(const float *values, const float *bias, const Mean &mean, int64_t channels,
                                       const float *gradient, float *result, int64_t begin, int64_t end) {
    spread_range(values, bias, mean, channels, gradient, result, begin, end);
}
FOR_EACH_PROCESSOR void spread_bfloat16(const bfloat16 *values, const float *bias, const Mean &mean, int64_t channels,
                                        const float *gradient, bfloat16 *result, int64_t begin, int64_t end) {
    spread_range(values, bias, mean, channels, gradient, result, begin, end);
}

// ------------------------------------------------------------------------------------- what Python calls

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

}  // namespace

extern "C" {

uint32_t ocp_scn_source() { return SOURCE_CRC32; }

void ocp_scn_silu(int is_bfloat16, const void *x, const void *bias, void *result, int64_t rows, int64_t width,
                  int threads) {
    in_ranges(rows, rows_for_a_thread(width), threads, [=](int64_t begin, int64_t end) {
        if (is_bfloat16)
            silu_bfloat16(static_cast<const bfloat16 *>(x), static_cast<const bfloat16 *>(bias),
                          static_cast<bfloat16 *>(result), width, begin, end);
        else
            silu_float32(static_cast<const float *>(x), static_cast<const float *>(bias), static_cast<float *>(result),
                         width, begin, end);
    });
}

void ocp_scn_silu_derivative(int is_bfloat16, const void *x, const void *bias, const void *gradient, void *result,
                             int64_t rows, int64_t width, int threads) {
    in_ranges(rows, rows_for_a_thread(width), threads, [=](int64_t begin, int64_t end) {
        if (is_bfloat16)
            derivative_bfloat16(static_cast<const bfloat16 *>(x), static_cast<const bfloat16 *>(bias),
                                static_cast<const bfloat16 *>(gradient), static_cast<bfloat16 *>(result), width, begin,
                                end);
        else
            derivative_float32(static_cast<const float *>(x), static_cast<const float *>(bias),
                               static_cast<const float *>(gradient), static_cast<float *>(result), width, begin, end);
    });
}

void ocp_scn_average(int is_bfloat16, const void *values, const float *bias, int64_t taps, int64_t kept,
                     const float *own, const float *cross, const int64_t *partner, int64_t channels, float *result,
                     int64_t num_edges, int threads) {
    const Mean mean{taps, kept, own, cross, partner};
    in_ranges(num_edges, 1, threads, [=](int64_t begin, int64_t end) {
        if (is_bfloat16)
            average_bfloat16(static_cast<const bfloat16 *>(values), bias, mean, channels, result, begin, end);
        else
            average_float32(static_cast<const float *>(values), bias, mean, channels, result, begin, end);
    });
}

void ocp_scn_average_derivative(int is_bfloat16, const void *values, const float *bias, int64_t taps, int64_t kept,
                                const float *own, const float *cross, const int64_t *partner, int64_t channels,
                                const float *gradient, void *result, int64_t num_edges, int threads) {
    const Mean mean{taps, kept, own, cross, partner};
    in_ranges(num_edges, 1, threads, [=](int64_t begin, int64_t end) {
        if (is_bfloat16)
            spread_bfloat16(static_cast<const bfloat16 *>(values), bias, mean, channels, gradient,
                            static_cast<bfloat16 *>(result), begin, end);
        else
            spread_float32(static_cast<const float *>(values), bias, mean, channels, gradient,
                           static_cast<float *>(result), begin, end);
    });
}

void ocp_scn_turn(int is_bfloat16, const float *x, int64_t atom_stride, int64_t channels, const int64_t *atoms,
                  const float *blocks, int64_t size, int64_t lmax, int64_t mmax, void *const *tensors,
                  const int64_t *sizes, const Row *rows, int64_t num_edges, int threads) {
    const Rotations rotations{blocks, size, lmax, mmax};
    const Parts parts{tensors, sizes, rows};
    in_ranges(num_edges, 8, threads, [=](int64_t begin, int64_t end) {
        if (is_bfloat16)
            turn_bfloat16(x, atom_stride, channels, atoms, rotations, parts, begin, end);
        else
            turn_float32(x, atom_stride, channels, atoms, rotations, parts, begin, end);
    });
}

void ocp_scn_sum(int is_bfloat16, float *result, int64_t atom_stride, int64_t channels, const int64_t *edges,
                 const int64_t *starts, const float *blocks, int64_t size, int64_t lmax, int64_t mmax,
                 void *const *tensors, const int64_t *sizes, const Row *rows, int add, int64_t num_atoms, int threads) {
    const Rotations rotations{blocks, size, lmax, mmax};
    const Parts parts{tensors, sizes, rows};
    const auto work = [=](int64_t begin, int64_t end) {
        if (is_bfloat16)
            sum_bfloat16(result, atom_stride, channels, edges, starts, rotations, parts, add, begin, end);
        else
            sum_float32(result, atom_stride, channels, edges, starts, rotations, parts, add, begin, end);
    };
    in_ranges(num_atoms, 1, threads, work, 4);  // a group's edges end at few atoms side by side
}

}
