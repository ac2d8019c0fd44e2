// The loss of model/output.py over the vocabulary, with its gradients.
//
// A block of tokens goes from its logits to its gradients while both lie in the core's cache; nothing as large as
// tokens x vocabulary is kept but the gradient at the logits, as the operand of the output layer's own.

#pragma once

#include <vector>

#include "products.h"

namespace nmt {

struct Loss {
    long tokens, inner, words;
    double smoothing;
    const void* read;                   // [tokens, inner], T
    const float *weight, *bias;         // [words, inner], [words]
    const std::int64_t* targets;        // [tokens]
    float *plain, *smoothed;            // [tokens]
    float *d_read, *d_weight, *d_bias;  // as what they belong to, or all of them null
};

template <class T>
class LossBlocks {
  public:
    explicit LossBlocks(const Loss& loss)
        : loss_(loss),
          padded_((loss.words + LANES - 1) / LANES * LANES),
          height_(std::clamp(CACHED / padded_ / SMALLEST, 1L, 8L) * SMALLEST),
          blocks_((loss.tokens + height_ - 1) / height_),
          weight_(loss.words, loss.inner),
          weight_back_(loss.inner, loss.words),
          gradient_(loss.words, loss.d_read ? loss.tokens : 0),
          read_(loss.inner, loss.d_read ? loss.tokens : 0),
          d_bias_(loss.d_read ? blocks_ * padded_ : 0) {}

    void run() {
        in_parallel([&](long thread, long threads) {
            weight_.fill(loss_.weight, loss_.inner, 1, thread, threads);
            if (loss_.d_read) {
                weight_back_.fill(loss_.weight, 1, loss_.inner, thread, threads);
                read_.fill((const T*)loss_.read, 1, loss_.inner, thread, threads);
            }
            barrier();
            std::vector<float> logits(height_ * padded_);
            std::vector<T> operand(loss_.d_read ? height_ * padded_ : 0);
            Share share(blocks_, thread, threads);
            for (long block = share.begin; block < share.end; ++block) run(block, logits.data(), operand.data());
            if (!loss_.d_read) return;
            barrier();
            multiply_transposed(gradient_, read_, loss_.words, loss_.inner, loss_.d_weight, thread, threads);
            Share columns(padded_ / LANES, thread, threads);
            for (long i = columns.begin * LANES; i < columns.end * LANES; i += LANES) {
                Vector total = zeros();
                for (long block = 0; block < blocks_; ++block) total += load(&d_bias_[block * padded_ + i]);
                _mm512_mask_storeu_ps(loss_.d_bias + i, lanes(loss_.words - i), total);
            }
        });
    }

  private:
    static constexpr long SMALLEST = 6, CACHED = 1 << 17;  // tokens; logits

    void run(long block, float* logits, T* operand) {
        long first = block * height_, count = std::min(height_, loss_.tokens - first);
        weight_.multiply(Rows<T>{(const T*)loss_.read, loss_.inner}, first, count, loss_.bias, logits, padded_);
        for (long row = 0; row < count; ++row) softmax(first + row, logits + row * padded_);
        if (!loss_.d_read) return;
        for (long row = 0; row < count; row += DEPTH<T>)
            differentiate(first + row, std::min(DEPTH<T>, count - row), logits + row * padded_, operand + row * padded_,
                          &d_bias_[block * padded_]);
        weight_back_.multiply(Rows<T>{operand, padded_}, 0, count, nullptr, loss_.d_read + first * loss_.inner,
                              loss_.inner);
    }

    // Logits become the gradient at them, p - smoothing / V and 1 - smoothing less at the target, and the loss is kept.
    void softmax(long token, float* logits) {
        const long words = loss_.words;
        Vector highest = all(-INFINITY), total = zeros();
        for (long i = 0; i < words; i += LANES) {
            highest = _mm512_max_ps(highest, some(logits + i, words - i, -INFINITY));
            total += some(logits + i, words - i);
        }
        const float top = largest(highest), mean = sum(total) / words, goal = logits[loss_.targets[token]];
        Vector exponentials = zeros();
        for (long i = 0; i < words; i += LANES) {
            Vector e = _mm512_maskz_mov_ps(lanes(words - i), exponential(load(logits + i) - all(top)));
            exponentials += e;
            store(logits + i, e);
        }
        const float whole = sum(exponentials), log_whole = std::log(whole) + top, smoothing = loss_.smoothing;
        loss_.plain[token] = log_whole - goal;
        loss_.smoothed[token] = (1.0f - smoothing) * (log_whole - goal) + smoothing * (log_whole - mean);
        if (!loss_.d_read) return;
        for (long i = 0; i < words; i += LANES)
            store(logits + i,
                  _mm512_maskz_sub_ps(lanes(words - i), load(logits + i) * all(1.0f / whole), all(smoothing / words)));
        logits[loss_.targets[token]] -= 1.0f - smoothing;
    }

    // The gradient at the logits of `count` tokens, DEPTH at most, as the operand of both products back.
    void differentiate(long token, long count, const float* gradient, T* operand, float* d_bias) {
        for (long i = 0; i < padded_; i += LANES) {
            Vector first = load(gradient + i), second = count > 1 ? load(gradient + padded_ + i) : zeros();
            store(operand + i, first);
            if (count > 1) store(operand + padded_ + i, second);
            interleave(gradient_.at(i / LANES, token / DEPTH<T>), first, second);
            store(d_bias + i, load(d_bias + i) + first + second);
        }
    }

    const Loss& loss_;
    const long padded_, height_, blocks_;
    Packed<T> weight_, weight_back_, gradient_, read_;
    std::vector<float> d_bias_;  // [blocks, padded]: a sum in the order of blocks, whatever threads there are
};

template <class T>
void run(const Loss& loss) {
    LossBlocks<T>(loss).run();
}

}  // namespace nmt
