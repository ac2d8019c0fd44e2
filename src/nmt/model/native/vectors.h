// Sixteen numbers at a time: AVX-512.

#pragma once

#include <immintrin.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace nmt {

constexpr long LANES = 16;

using Vector = __m512;

struct Bfloat16 {
    std::uint16_t bits;
};

inline Vector all(float x) { return _mm512_set1_ps(x); }
inline Vector zeros() { return _mm512_setzero_ps(); }
inline Vector load(const float* from) { return _mm512_loadu_ps(from); }
inline void store(float* to, Vector x) { _mm512_storeu_ps(to, x); }
inline void store(Bfloat16* to, Vector x) {
    __m256bh rounded = _mm512_cvtneps_pbh(x);
    std::memcpy(to, &rounded, sizeof rounded);
}
inline Vector fma(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
inline float sum(Vector x) { return _mm512_reduce_add_ps(x); }
inline float largest(Vector x) { return _mm512_reduce_max_ps(x); }

// The lanes of the next `count` numbers, of which there may be more or fewer than sixteen.
inline __mmask16 lanes(long count) { return count >= LANES ? 0xffff : (1u << count) - 1; }

// These numbers, and what else where they end.
inline Vector some(const float* from, long count, float otherwise = 0.0f) {
    return _mm512_mask_loadu_ps(all(otherwise), lanes(count), from);
}

// Cephes' expf: a polynomial on half a binade around 0; relative error 1e-7. Infinite from 89 on, 0 below -104.
inline Vector exponential(Vector x) {
    x = _mm512_min_ps(all(104.0f), _mm512_max_ps(all(-104.0f), x));  // in this order NaN stays NaN
    Vector n = _mm512_roundscale_ps(_mm512_mul_ps(x, all(1.44269504f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    Vector r = _mm512_fnmadd_ps(n, all(-2.12194440e-4f), _mm512_fnmadd_ps(n, all(0.693359375f), x));
    Vector p = all(1.9875691500e-4f);
    for (float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
        p = fma(p, r, all(c));
    return _mm512_scalef_ps(fma(p, r * r, r + all(1.0f)), n);
}

inline Vector sigmoid(Vector x) { return all(1.0f) / (all(1.0f) + exponential(zeros() - x)); }
inline Vector tanh(Vector x) { return all(1.0f) - all(2.0f) / (all(1.0f) + exponential(x + x)); }

// to += from; a multiple of sixteen numbers, as every `count` below.
inline void add(const float* from, float* to, long count) {
    for (long i = 0; i < count; i += LANES) store(to + i, load(to + i) + load(from + i));
}

template <class T>
void round(const float* from, T* to, long count) {
    for (long i = 0; i < count; i += LANES) store(to + i, load(from + i));
}

// Calls work(thread, threads) in the threads that torch's own operations use, all of which meet at each barrier().
template <class Work>
void in_parallel(Work work) {
#pragma omp parallel
    work(long(omp_get_thread_num()), long(omp_get_num_threads()));
}

inline void barrier() {
#pragma omp barrier
}

// The thread's part of so many pieces of work.
struct Share {
    long begin, end;

    Share(long count, long thread, long threads)
        : begin(count * thread / threads), end(count * (thread + 1) / threads) {}
    long size() const { return end - begin; }
};

}  // namespace nmt
