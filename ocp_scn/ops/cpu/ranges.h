// What kernels.cpp does with a range of rows, edges or atoms. It is compiled once for each instruction set, in a
// namespace with its own WIDTH, so there is neither an include here nor anything of the standard library.

typedef float Vector __attribute__((vector_size(4 * WIDTH)));
typedef int32_t Integers __attribute__((vector_size(4 * WIDTH)));
typedef uint32_t Words __attribute__((vector_size(4 * WIDTH)));
typedef uint16_t Halves __attribute__((vector_size(2 * WIDTH)));

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
template <typename T>
INLINE void load_part(Vector &v, const T *from, int64_t n) {
    T buffer[WIDTH] = {};
    memcpy(buffer, from, n * sizeof(T));
    load(v, buffer);
}

template <typename T>
INLINE void store_part(T *to, const Vector &v, int64_t n) {
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
    // Taylor's series: the next term is below 6e-9.
    Vector p = Vector{} + 1.f / 5040;
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
void bias_silu(const T *x, const float *bias, T *result, int64_t width, int64_t begin, int64_t end) {
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
void bias_silu_backward(const T *gradient, const T *x, const float *bias, T *result, int64_t width, int64_t begin,
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

// ----------------------------------------------------------------------------------------- rotations

INLINE int64_t kept_orders(int64_t degree, int64_t mmax) { return 2 * (degree < mmax ? degree : mmax) + 1; }

// N vectors of channels, or n < WIDTH numbers if N is 0.
template <int N>
struct Channels {
    static constexpr int VECTORS = N ? N : 1;
    template <typename T>
    static INLINE void get(Vector *v, const T *from, int64_t n) {
        if constexpr (N == 0)
            load_part(*v, from, n);
        else
            for (int i = 0; i < N; i++) load(v[i], from + i * WIDTH);
    }
    template <typename T>
    static INLINE void put(T *to, const Vector *v, int64_t n) {
        if constexpr (N == 0)
            store_part(to, *v, n);
        else
            for (int i = 0; i < N; i++) store(to + i * WIDTH, v[i]);
    }
};

// R rows of one degree's Wigner matrix, for some channels of one end of an edge.
template <typename T, int R, int N>
INLINE void turn_rows(const float *x, int64_t channels, const float *block, int64_t columns, const Row *row,
                      int64_t edge, int64_t edges, T *v, int64_t first, int64_t n) {
    constexpr int V = Channels<N>::VECTORS;
    Vector sums[R][V] = {}, signal[V];
    for (int64_t k = 0; k < columns; k++) {
        Channels<N>::get(signal, x + k * channels + first, n);
        for (int r = 0; r < R; r++)
            for (int i = 0; i < V; i++) sums[r][i] += block[r * columns + k] * signal[i];
    }
    for (int r = 0; r < R; r++) Channels<N>::put(v + row[r].of(edge, edges) * channels + first, sums[r], n);
}

template <typename T, int N>
INLINE void turn_channels(const float *x, int64_t channels, const Wigner &wigner, const Row *row, int64_t edge,
                          int64_t edges, T *v, int64_t first, int64_t n) {
    const float *block = wigner.of(edge);
    for (int64_t degree = 0; degree <= wigner.lmax; degree++) {
        const int64_t columns = 2 * degree + 1;
        const float *here = x + degree * degree * channels;
        int64_t left = kept_orders(degree, wigner.mmax);
        for (; left >= 3; left -= 3, block += 3 * columns, row += 3)
            turn_rows<T, 3, N>(here, channels, block, columns, row, edge, edges, v, first, n);
        if (left == 2) turn_rows<T, 2, N>(here, channels, block, columns, row, edge, edges, v, first, n);
        if (left == 1) turn_rows<T, 1, N>(here, channels, block, columns, row, edge, edges, v, first, n);
        block += left * columns;
        row += left;
    }
}

template <typename T>
void node_to_edge(const float *x, int64_t num_atoms, int64_t atom_stride, int64_t channels, const int64_t *atom,
                  const Wigner &wigner, const Rows &rows, T *v, int *missing, int64_t begin, int64_t end) {
    for (int64_t edge = begin; edge < end; edge++)
        for (int64_t j = 0; j < rows.ends; j++) {
            const int64_t at = atom[edge * rows.ends + j];
            if (at < 0 || at >= num_atoms) {
                *missing = 1;
                continue;
            }
            const float *here = x + at * atom_stride;
            const Row *row = rows.of(j);
            int64_t c = 0;
            for (; c + 4 * WIDTH <= channels; c += 4 * WIDTH)
                turn_channels<T, 4>(here, channels, wigner, row, edge, rows.edges, v, c, 0);
            for (; c + WIDTH <= channels; c += WIDTH)
                turn_channels<T, 1>(here, channels, wigner, row, edge, rows.edges, v, c, 0);
            if (c < channels)
                turn_channels<T, 0>(here, channels, wigner, row, edge, rows.edges, v, c, channels - c);
        }
}

// Adds R rows of an end, turned back, to the sums of one degree.
template <typename T, int R, int N>
INLINE void add_rows(Vector *sums, int64_t channels, const float *block, int64_t columns, const Row *row,
                     int64_t edge, int64_t edges, const T *v, int64_t first, int64_t n) {
    constexpr int V = Channels<N>::VECTORS;
    Vector values[R][V];
    for (int r = 0; r < R; r++) Channels<N>::get(values[r], v + row[r].of(edge, edges) * channels + first, n);
    for (int64_t k = 0; k < columns; k++)
        for (int i = 0; i < V; i++) {
            Vector sum = sums[k * V + i];
            for (int r = 0; r < R; r++) sum += block[r * columns + k] * values[r][i];
            sums[k * V + i] = sum;
        }
}

template <typename T, int N>
INLINE void sum_channels(float *result, int64_t channels, const int64_t *order, int64_t start, int64_t stop,
                         const Wigner &wigner, const Rows &rows, const T *v, int64_t first, int64_t n, bool add,
                         Vector *sums) {
    constexpr int V = Channels<N>::VECTORS;
    const int64_t size = (wigner.lmax + 1) * (wigner.lmax + 1);
    for (int64_t k = 0; k < size; k++) {
        if (add)
            Channels<N>::get(sums + k * V, result + k * channels + first, n);
        else
            for (int i = 0; i < V; i++) sums[k * V + i] = Vector{};
    }
    for (int64_t i = start; i < stop; i++) {
        const int64_t at = order ? order[i] : i, edge = at / rows.ends;
        const Row *row = rows.of(at % rows.ends);
        const float *block = wigner.of(edge);
        for (int64_t degree = 0; degree <= wigner.lmax; degree++) {
            const int64_t columns = 2 * degree + 1;
            Vector *of_degree = sums + degree * degree * V;
            int64_t left = kept_orders(degree, wigner.mmax);
            for (; left >= 3; left -= 3, block += 3 * columns, row += 3)
                add_rows<T, 3, N>(of_degree, channels, block, columns, row, edge, rows.edges, v, first, n);
            if (left == 2) add_rows<T, 2, N>(of_degree, channels, block, columns, row, edge, rows.edges, v, first, n);
            if (left == 1) add_rows<T, 1, N>(of_degree, channels, block, columns, row, edge, rows.edges, v, first, n);
            block += left * columns;
            row += left;
        }
    }
    for (int64_t k = 0; k < size; k++) Channels<N>::put(result + k * channels + first, sums + k * V, n);
}

// `memory` has room for 4 vectors of each coefficient.
template <typename T>
void edge_to_node(float *result, int64_t atom_stride, int64_t channels, const int64_t *order, const int64_t *starts,
                  const Wigner &wigner, const Rows &rows, const T *v, bool add, void *memory, int64_t begin,
                  int64_t end) {
    auto *sums = static_cast<Vector *>(memory);
    for (int64_t atom = begin; atom < end; atom++) {
        float *here = result + atom * atom_stride;
        const int64_t start = starts[atom], stop = starts[atom + 1];
        if (add && start == stop) continue;
        int64_t c = 0;
        for (; c + 4 * WIDTH <= channels; c += 4 * WIDTH)
            sum_channels<T, 4>(here, channels, order, start, stop, wigner, rows, v, c, 0, add, sums);
        for (; c + WIDTH <= channels; c += WIDTH)
            sum_channels<T, 1>(here, channels, order, start, stop, wigner, rows, v, c, 0, add, sums);
        if (c < channels)
            sum_channels<T, 0>(here, channels, order, start, stop, wigner, rows, v, c, channels - c, add, sums);
    }
}

// The sum over channels of a row of an edge times a coefficient of an atom.
template <typename T>
INLINE float product(const T *v, const float *x, int64_t channels) {
    Vector sum = {}, a, b;
    int64_t c = 0;
    for (; c + WIDTH <= channels; c += WIDTH) load(a, v + c), load(b, x + c), sum += a * b;
    if (c < channels) load_part(a, v + c, channels - c), load_part(b, x + c, channels - c), sum += a * b;
    float numbers[WIDTH], total = 0;
    store(numbers, sum);
    for (int64_t i = 0; i < WIDTH; i++) total += numbers[i];
    return total;
}

template <typename T>
void wigner_gradient(const T *v, const float *x, int64_t num_atoms, int64_t atom_stride, int64_t channels,
                     const int64_t *atom, const Wigner &wigner, const Rows &rows, float *result, int *missing,
                     int64_t begin, int64_t end) {
    for (int64_t edge = begin; edge < end; edge++) {
        float *to = result + edge * wigner.size;
        for (int64_t degree = 0, s = 0; degree <= wigner.lmax; degree++)
            for (int64_t left = kept_orders(degree, wigner.mmax); left > 0; left--, s++)
                for (int64_t k = degree * degree; k < (degree + 1) * (degree + 1); k++, to++) {
                    *to = 0;
                    for (int64_t j = 0; j < rows.ends; j++) {
                        const int64_t at = atom[edge * rows.ends + j];
                        if (at < 0 || at >= num_atoms) {
                            *missing = 1;
                            continue;
                        }
                        const float *here = x + at * atom_stride;
                        *to += product(v + rows.of(j)[s].of(edge, rows.edges) * channels, here + k * channels,
                                       channels);
                    }
                }
    }
}

// ------------------------------------------------------------------------------------------------ taps

// Some channels of one edge: what each tap rolls is activated and multiplied by the activated gate.
template <typename T, int N>
INLINE void gate_channels(const First &first, const Mixing &mixing, const float *bias, const T *gate,
                          const float *gate_bias, T *result, int64_t channels, int64_t edge, int64_t at, int64_t n) {
    Vector v, b, g, rolled;
    Channels<N>::get(&g, gate + edge * channels + at, n);
    Channels<N>::get(&b, gate_bias + at, n);
    g += b;
    silu(g);
    Channels<N>::get(&b, bias + at, n);
    for (int64_t t = 0; t < mixing.taps; t++) {
        rolled = b;
        for (int64_t w = 0; w < mixing.number; w++) {
            Channels<N>::get(&v, first.row<T>(w, edge) + at, n);
            rolled += mixing.factors[t * mixing.number + w] * v;
        }
        silu(rolled);
        rolled *= g;
        Channels<N>::put(result + (edge * mixing.taps + t) * channels + at, &rolled, n);
    }
}

template <typename T>
void gate(const First &first, const Mixing &mixing, const float *bias, const T *gate, const float *gate_bias, T *result,
          int64_t channels, int64_t begin, int64_t end) {
    for (int64_t edge = begin; edge < end; edge++) {
        int64_t c = 0;
        for (; c + WIDTH <= channels; c += WIDTH)
            gate_channels<T, 1>(first, mixing, bias, gate, gate_bias, result, channels, edge, c, 0);
        if (c < channels)
            gate_channels<T, 0>(first, mixing, bias, gate, gate_bias, result, channels, edge, c, channels - c);
    }
}

// Some channels of the derivatives by `first`, which lie as it does, and by the gate, from that by what gate() returns.
template <typename T, int N>
INLINE void gate_backward_channels(const First &first, const Mixing &mixing, const float *bias, const T *gate,
                                   const float *gate_bias, const T *gradient, const First &of_first, T *of_gate,
                                   int64_t channels, int64_t edge, int64_t at, int64_t n, Vector *sums) {
    Vector v, b, g, opened, rolled, activated, sum = {};
    Channels<N>::get(&g, gate + edge * channels + at, n);
    Channels<N>::get(&b, gate_bias + at, n);
    g += b;
    opened = g;
    silu(opened);
    Channels<N>::get(&b, bias + at, n);
    for (int64_t w = 0; w < mixing.number; w++) sums[w] = Vector{};
    for (int64_t t = 0; t < mixing.taps; t++) {
        const float *factors = mixing.factors + t * mixing.number;
        rolled = b;
        for (int64_t w = 0; w < mixing.number; w++) {
            Channels<N>::get(&v, first.row<T>(w, edge) + at, n);
            rolled += factors[w] * v;
        }
        Channels<N>::get(&v, gradient + (edge * mixing.taps + t) * channels + at, n);
        activated = rolled;
        silu(activated);
        sum += v * activated;
        v *= opened;
        silu_derivative(v, rolled);
        for (int64_t w = 0; w < mixing.number; w++) sums[w] += factors[w] * v;
    }
    for (int64_t w = 0; w < mixing.number; w++) Channels<N>::put(of_first.row<T>(w, edge) + at, sums + w, n);
    silu_derivative(sum, g);
    Channels<N>::put(of_gate + edge * channels + at, &sum, n);
}

// `memory` has room for a vector of each of the rows that are mixed.
template <typename T>
void gate_backward(const First &first, const Mixing &mixing, const float *bias, const T *gate, const float *gate_bias,
                   const T *gradient, const First &of_first, T *of_gate, int64_t channels, void *memory, int64_t begin,
                   int64_t end) {
    auto *sums = static_cast<Vector *>(memory);
    for (int64_t edge = begin; edge < end; edge++) {
        int64_t c = 0;
        for (; c + WIDTH <= channels; c += WIDTH)
            gate_backward_channels<T, 1>(first, mixing, bias, gate, gate_bias, gradient, of_first, of_gate, channels,
                                         edge, c, 0, sums);
        if (c < channels)
            gate_backward_channels<T, 0>(first, mixing, bias, gate, gate_bias, gradient, of_first, of_gate, channels,
                                         edge, c, channels - c, sums);
    }
}

// Some channels of coefficients s and p, of opposite orders or the same, of one edge: the values (T, S, C) are
// activated with a bias (S, C), rolled back and averaged.
template <typename T, int N>
INLINE void average_pair(const T *values, const float *bias, const Mean &mean, int64_t channels, int64_t s, int64_t p,
                         float *result, int64_t first, int64_t n) {
    const int64_t at_s = s * channels + first, at_p = p * channels + first;
    Vector v, w, bias_s, bias_p, sum_s = {}, sum_p = {};
    Channels<N>::get(&bias_s, bias + at_s, n);
    Channels<N>::get(&bias_p, bias + at_p, n);
    for (int64_t t = 0; t < mean.taps; t++, values += mean.kept * channels) {
        const float *cos = mean.cos + t * mean.kept, *sin = mean.sin + t * mean.kept;
        Channels<N>::get(&v, values + at_s, n);
        v += bias_s;
        silu(v);
        sum_s += cos[s] * v;
        if (p == s) continue;
        Channels<N>::get(&w, values + at_p, n);
        w += bias_p;
        silu(w);
        sum_s += sin[p] * w;
        sum_p += cos[p] * w + sin[s] * v;
    }
    Channels<N>::put(result + at_s, &sum_s, n);
    if (p != s) Channels<N>::put(result + at_p, &sum_p, n);
}

// The derivative by some values of coefficient s, of all rolls, from that by the mean (S, C).
template <typename T, int N>
INLINE void spread(const T *values, const float *bias, const Mean &mean, int64_t channels, int64_t s,
                   const float *gradient, T *result, int64_t first, int64_t n) {
    const int64_t p = mean.opposite[s], at = s * channels + first;
    Vector v, g, bias_s, of_s, of_p;
    Channels<N>::get(&bias_s, bias + at, n);
    Channels<N>::get(&of_s, gradient + at, n);
    Channels<N>::get(&of_p, gradient + p * channels + first, n);
    for (int64_t t = 0; t < mean.taps; t++, values += mean.kept * channels, result += mean.kept * channels) {
        Channels<N>::get(&v, values + at, n);
        v += bias_s;
        g = mean.cos[t * mean.kept + s] * of_s;
        if (p != s) g += mean.sin[t * mean.kept + s] * of_p;
        silu_derivative(g, v);
        Channels<N>::put(result + at, &g, n);
    }
}

template <typename T>
void tap_mean(const T *values, const float *bias, const Mean &mean, int64_t channels, float *result, int64_t begin,
             int64_t end) {
    const int64_t size = mean.kept * channels;
    for (int64_t edge = begin; edge < end; edge++)
        for (int64_t s = 0; s < mean.kept; s++) {
            const T *here = values + edge * mean.taps * size;
            const int64_t p = mean.opposite[s];
            int64_t c = 0;
            if (p < s) continue;  // done with its opposite
            for (; c + WIDTH <= channels; c += WIDTH)
                average_pair<T, 1>(here, bias, mean, channels, s, p, result + edge * size, c, 0);
            if (c < channels)
                average_pair<T, 0>(here, bias, mean, channels, s, p, result + edge * size, c, channels - c);
        }
}

template <typename T>
void tap_mean_backward(const float *gradient, const T *values, const float *bias, const Mean &mean, int64_t channels,
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
