// What a step of prediction does beside products: attention for each hypothesis, and its most probable words.

#pragma once

#include <vector>

#include "recurrence.h"

namespace nmt {

// The weights of each row's attention [rows, source], and the sums of values under them [rows, value_size].
struct Attend {
    long rows, source, key_size, value_size, additive;
    const float *queries, *keys, *values, *score_weight;  // [rows, key_size]; the others as Attention has them
    const std::uint8_t* padding;
    const std::int64_t* sentences;  // [rows], or null where rows and sentences are the same
    float *weights, *sums;
};

template <class T>
void run(const Attend& a) {
    in_parallel([&](long thread, long threads) {
        const Attention attention{a.source, a.key_size, a.value_size, a.additive != 0,
                                  a.keys,   a.values,   a.padding,    a.score_weight};
        std::vector<float> query(a.key_size);
        Share share(a.rows, thread, threads);
        for (long row = share.begin; row < share.end; ++row) {
            std::copy_n(a.queries + row * a.key_size, a.key_size, query.data());
            attention.forward(a.sentences ? a.sentences[row] : row, query.data(), a.weights + row * a.source,
                              a.sums + row * a.value_size);
        }
    });
}

// The `count` most probable words of each row, best first, of equal ones the first. A barred word counts in the
// softmax's sum and is never returned; a row that must write a certain word returns that one alone.
struct Best {
    long rows, words, count, barred_count, free;
    const float* logits;         // [rows, words]
    const std::int64_t* barred;  // [barred_count]
    const std::int64_t* forced;  // [rows]: the word, or `free`; or null
    float* log_probabilities;    // [rows, count]; -inf where there are no more
    std::int64_t* indices;       // [rows, count]
};

inline void best(const Best& b, long row) {
    const float* logits = b.logits + row * b.words;
    float* values = b.log_probabilities + row * b.count;
    std::int64_t* indices = b.indices + row * b.count;
    Vector highest = all(-INFINITY), whole = zeros();
    for (long i = 0; i < b.words; i += LANES)
        highest = _mm512_max_ps(highest, some(logits + i, b.words - i, -INFINITY));
    const float top = largest(highest);
    for (long i = 0; i < b.words; i += LANES)
        whole += _mm512_maskz_mov_ps(lanes(b.words - i), exponential(some(logits + i, b.words - i) - all(top)));
    const float log_whole = std::log(sum(whole));
    std::fill_n(values, b.count, -INFINITY);
    std::fill_n(indices, b.count, 0);
    if (b.forced && b.forced[row] != b.free) {
        indices[0] = b.forced[row];
        values[0] = logits[indices[0]] - top - log_whole;
        return;
    }
    const float& last = values[b.count - 1];
    alignas(64) float found[LANES];
    for (long i = 0; i < b.words; i += LANES) {
        Vector log_p = some(logits + i, b.words - i, -INFINITY) - all(top) - all(log_whole);
        __mmask16 better = _mm512_cmp_ps_mask(log_p, all(last), _CMP_GT_OQ);
        if (!better) continue;
        store(found, log_p);
        for (; better; better &= better - 1) {
            long lane = __builtin_ctz(better), place = b.count - 1;
            if (!(found[lane] > last) ||
                std::find(b.barred, b.barred + b.barred_count, i + lane) != b.barred + b.barred_count)
                continue;
            for (; place > 0 && found[lane] > values[place - 1]; --place) {
                values[place] = values[place - 1];
                indices[place] = indices[place - 1];
            }
            values[place] = found[lane];
            indices[place] = i + lane;
        }
    }
}

template <class T>
void run(const Best& b) {
    in_parallel([&](long thread, long threads) {
        Share share(b.rows, thread, threads);
        for (long row = share.begin; row < share.end; ++row) best(b, row);
    });
}

}  // namespace nmt
