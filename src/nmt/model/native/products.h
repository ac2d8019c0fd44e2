// Products of matrices whose operands are T, float or bfloat16, with sums in float32 (VDPBF16PS adds two products at
// once).

#pragma once

#include <climits>
#include <memory>
#include <type_traits>

#include "vectors.h"

namespace nmt {

template <class T>
constexpr long DEPTH = 1;  // terms of a sum that one instruction takes: a step
template <>
constexpr long DEPTH<Bfloat16> = 2;

inline Vector multiply_add(Vector sum, const float* row, const float* weight) {
    return fma(all(*row), load(weight), sum);
}
inline Vector multiply_add(Vector sum, const Bfloat16* row, const Bfloat16* weight) {
    std::int32_t pair;
    std::memcpy(&pair, row, sizeof pair);
    return _mm512_dpbf16_ps(sum, (__m512bh)_mm512_set1_epi32(pair), (__m512bh)_mm512_loadu_si512(weight));
}

// Sixteen numbers each of DEPTH rows, as products read them: `second` beside `first`, number by number.
inline void interleave(float* to, Vector first, Vector) { store(to, first); }
inline void interleave(Bfloat16* to, Vector first, Vector second) {
    alignas(64) static constexpr std::uint16_t ORDER[] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                          8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    __m512i both = (__m512i)_mm512_cvtne2ps_pbh(second, first);
    _mm512_storeu_si512(to, _mm512_permutexvar_epi16(_mm512_load_si512(ORDER), both));
}

inline Vector some(const Bfloat16* from, long count) {
    __m256i bits = _mm256_maskz_loadu_epi16(lanes(count), from);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

// The next sixteen steps of a row, of which there are `count` numbers: each one lane.
template <class T>
Vector steps_of(const float* from, long count);
template <>
inline Vector steps_of<float>(const float* from, long count) {
    return some(from, count);
}
template <>
inline Vector steps_of<Bfloat16>(const float* from, long count) {
    Vector low = some(from, count), high = some(from + LANES, std::max(0L, count - LANES));
    return (Vector)_mm512_cvtne2ps_pbh(high, low);
}

// Rows to columns.
inline void transpose(Vector (&x)[LANES]) {
    Vector y[LANES];
    for (int i = 0; i < LANES; i += 2) {
        y[i] = _mm512_unpacklo_ps(x[i], x[i + 1]);
        y[i + 1] = _mm512_unpackhi_ps(x[i], x[i + 1]);
    }
    for (int i = 0; i < LANES; i += 4)
        for (int j = 0; j < 2; ++j) {
            __m512d low = (__m512d)y[i + j], high = (__m512d)y[i + j + 2];
            x[i + 2 * j] = (Vector)_mm512_unpacklo_pd(low, high);
            x[i + 2 * j + 1] = (Vector)_mm512_unpackhi_pd(low, high);
        }
    for (int i = 0; i < LANES; i += 8)
        for (int j = 0; j < 4; ++j) {
            y[i + j] = _mm512_shuffle_f32x4(x[i + j], x[i + j + 4], 0x88);
            y[i + j + 4] = _mm512_shuffle_f32x4(x[i + j], x[i + j + 4], 0xdd);
        }
    for (int j = 0; j < 8; ++j) {
        x[j] = _mm512_shuffle_f32x4(y[j], y[j + 8], 0x88);
        x[j + 8] = _mm512_shuffle_f32x4(y[j], y[j + 8], 0xdd);
    }
}

// The left operand of a product: `by_row` and `by_step` are how far its numbers lie apart. Rows may come in groups.
template <class T>
struct Rows {
    const T* at;
    long by_row, by_step = DEPTH<T>, group = LONG_MAX, by_group = 0;

    const T* row(long r) const { return at + r / group * by_group + r % group * by_row; }
};

// A matrix [columns, inner] in the order in which products read it: for a panel of 16 columns step after step.
template <class T>
class Packed {
  public:
    Packed(long columns, long inner)
        : columns_(columns),
          inner_(inner),
          steps_((inner + DEPTH<T> - 1) / DEPTH<T>),
          numbers_(new T[panels() * by_panel()]) {}

    long panels() const { return (columns_ + LANES - 1) / LANES; }

    T* at(long panel, long step) const { return numbers_.get() + panel * by_panel() + step * LANES * DEPTH<T>; }

    // The thread's share of the work, from a matrix whose columns lie side by side, or of a float one with its inner
    // numbers side by side; all must have done theirs before the matrix is used.
    template <class S>
    void fill(const S* from, long by_column, long by_inner, long thread, long threads) {
        Share share(panels(), thread, threads);
        for (long panel = share.begin; panel < share.end; ++panel) {
            const S* begin = from + panel * LANES * by_column;
            long count = columns_ - panel * LANES;
            if (by_column == 1)
                fill(panel, begin, count, by_inner);
            else if constexpr (std::is_same_v<S, float>)
                fill_transposed(panel, begin, count, by_column);
        }
    }

    // The same matrix as a left operand, transposed: its columns are the rows.
    Rows<T> as_rows() const { return {numbers_.get(), DEPTH<T>, LANES * DEPTH<T>, LANES, by_panel()}; }

    // out [count, columns] = rows [count, inner] times the matrix, plus the bias [columns] if there is one
    void multiply(Rows<T> rows, long first, long count, const float* bias, float* out, long by_row) const {
        for (long step = 0; step < steps_; step += BLOCK)
            for (long panel = 0; panel < panels(); panel += WIDE) {
                if (panel + WIDE <= panels()) {
                    multiply<WIDE>(rows, first, count, panel, step, bias, out, by_row);
                } else {
                    for (; panel < panels(); ++panel) multiply<1>(rows, first, count, panel, step, bias, out, by_row);
                }
            }
    }

  private:
    static constexpr int TALL = 6, WIDE = 4;  // 24 of the 32 registers hold sums
    static constexpr long BLOCK = 512;        // steps for which WIDE panels stay in the cache

    long by_panel() const { return steps_ * LANES * DEPTH<T>; }

    template <class S>
    void fill(long panel, const S* from, long count, long by_inner) {
        for (long step = 0; step < steps_; ++step, from += DEPTH<T> * by_inner) {
            bool alone = DEPTH<T> == 1 || (step + 1) * DEPTH<T> > inner_;
            interleave(at(panel, step), some(from, count), alone ? zeros() : some(from + by_inner, count));
        }
    }

    void fill_transposed(long panel, const float* from, long count, long by_column) {
        for (long step = 0; step < steps_; step += LANES, from += LANES * DEPTH<T>) {
            Vector square[LANES];
            for (long column = 0; column < LANES; ++column)
                square[column] =
                    column < count ? steps_of<T>(from + column * by_column, inner_ - step * DEPTH<T>) : zeros();
            transpose(square);
            for (long i = 0; i < std::min(LANES, steps_ - step); ++i) _mm512_storeu_ps(at(panel, step + i), square[i]);
        }
    }

    template <int PANELS>
    void multiply(Rows<T> rows, long first, long count, long panel, long step, const float* bias, float* out,
                  long by_row) const {
        for (long row = 0; row < count;) {
            long in_group = rows.group - (first + row) % rows.group,
                 tall = std::min({long(TALL), count - row, in_group});
            const T* from = rows.row(first + row) + step * rows.by_step;
            float* to = out + row * by_row;
            switch (tall) {
                case 6: tile<6, PANELS>(rows, from, panel, step, bias, to, by_row); break;
                case 5: tile<5, PANELS>(rows, from, panel, step, bias, to, by_row); break;
                case 4: tile<4, PANELS>(rows, from, panel, step, bias, to, by_row); break;
                case 3: tile<3, PANELS>(rows, from, panel, step, bias, to, by_row); break;
                case 2: tile<2, PANELS>(rows, from, panel, step, bias, to, by_row); break;
                case 1: tile<1, PANELS>(rows, from, panel, step, bias, to, by_row); break;
            }
            row += tall;
        }
    }

    template <int ROWS, int PANELS>
    void tile(const Rows<T>& rows, const T* row, long panel, long step, const float* bias, float* out,
              long by_row) const {
        Vector sums[ROWS][PANELS];
        __mmask16 inside[PANELS];
        out += panel * LANES;
#pragma GCC unroll 4
        for (int j = 0; j < PANELS; ++j) {
            long column = (panel + j) * LANES;
            inside[j] = lanes(columns_ - column);
            Vector begin = bias && !step ? some(bias + column, columns_ - column) : zeros();
#pragma GCC unroll 6
            for (int i = 0; i < ROWS; ++i)
                sums[i][j] = step ? _mm512_maskz_loadu_ps(inside[j], out + i * by_row + j * LANES) : begin;
        }
        const T* weight = at(panel, step);
        const long by_panel = this->by_panel(), by_row_in = rows.by_row, by_step = rows.by_step;
        for (long k = std::min(BLOCK, steps_ - step); k > 0; --k, row += by_step, weight += LANES * DEPTH<T>)
#pragma GCC unroll 6
            for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 4
                for (int j = 0; j < PANELS; ++j)
                    sums[i][j] = multiply_add(sums[i][j], row + i * by_row_in, weight + j * by_panel);
#pragma GCC unroll 6
        for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 4
            for (int j = 0; j < PANELS; ++j) _mm512_mask_storeu_ps(out + i * by_row + j * LANES, inside[j], sums[i][j]);
    }

    long columns_, inner_, steps_;
    std::unique_ptr<T[]> numbers_;
};

// out [rows, columns] = left [rows, inner] weight [columns, inner] (by_column and by_inner apart) + bias
struct Product {
    long rows, inner, columns, by_column, by_inner;
    const void* left;
    const float *weight, *bias;
    float* out;
};

template <class T>
void run(const Product& p) {
    Packed<T> weight(p.columns, p.inner);
    in_parallel([&](long thread, long threads) {
        weight.fill(p.weight, p.by_column, p.by_inner, thread, threads);
        barrier();
        Share share(p.rows, thread, threads);
        weight.multiply(Rows<T>{(const T*)p.left, p.inner}, share.begin, share.size(), p.bias,
                        p.out + share.begin * p.columns, p.columns);
    });
}

// out [columns of left, columns of right] = left [rows, .] transposed times right [rows, .]
struct TransposedProduct {
    long rows, left_columns, right_columns;
    const void *left, *right;
    float* out;
};

// The thread's share of such a product of packed matrices.
template <class T>
void multiply_transposed(const Packed<T>& left, const Packed<T>& right, long left_columns, long right_columns,
                         float* out, long thread, long threads) {
    Share share(left.panels(), thread, threads);
    long begin = share.begin * LANES, end = std::min(share.end * LANES, left_columns);
    right.multiply(left.as_rows(), begin, end - begin, nullptr, out + begin * right_columns, right_columns);
}

template <class T>
void run(const TransposedProduct& p) {
    Packed<T> left(p.left_columns, p.rows), right(p.right_columns, p.rows);
    in_parallel([&](long thread, long threads) {
        left.fill((const T*)p.left, 1, p.left_columns, thread, threads);
        right.fill((const T*)p.right, 1, p.right_columns, thread, threads);
        barrier();
        multiply_transposed(left, right, p.left_columns, p.right_columns, p.out, thread, threads);
    });
}

}  // namespace nmt
