// The recurrences of model/recurrence.py for one GRU layer.
//
// No sentence's states depend on another's, so a thread takes its share of a batch through all steps, forward or back,
// without a word to the others: products, cells and attention of a step run while its numbers lie in the core's own
// cache. Gradients of weights, which sum over sentences, are left to the caller. No result depends on the number of
// threads.

#pragma once

#include <vector>

#include "products.h"

namespace nmt {

// ---------------------------------------------------------------------------------------------- a GRU's cell

// The states of one direction's sentences, of `units` numbers.
template <class T>
struct Cells {
    long units, batch, directions;
    const float *start, *bias, *mask;  // [batch, units]; [3 units]; [batch, units] or null
    float* hidden;                     // [steps, batch, directions, units], from this direction on
    float* saved;                      // [steps, batch, 4 units]: reset, update, candidate and the recurrent part of that
    T* read;                           // [steps, batch, units]: operands of the recurrent product
    const std::int64_t* order;         // [steps, batch]: at which place each step stands; null if that is the step

    long place(long t, long b) const { return order ? order[t * batch + b] : t; }

    // Where a number of all directions' rows [steps, batch, directions, width] lies.
    long at(long t, long b, long width) const { return (place(t, b) * batch + b) * directions * width; }

    const float* before(long t, long b) const { return t ? hidden + at(t - 1, b, units) : start + b * units; }

    T* operand(long t, long b) const { return read + (t * batch + b) * units; }

    // The operand of step t's product.
    void recall(long t, long b) const {
        const float* from = before(t, b);
        if (!mask) return round(from, operand(t, b), units);
        for (long i = 0; i < units; i += LANES) store(operand(t, b) + i, load(from + i) * load(mask + b * units + i));
    }

    // `given` and, unless null, `beside` are the projected inputs, `recurrent` is the product.
    void forward(long t, long b, const float* given, const float* beside, const float* recurrent) const {
        const float *previous = before(t, b), *parts[] = {given, recurrent, bias, beside};
        float *now = hidden + at(t, b, units), *kept = saved + (t * batch + b) * 4 * units;
        int count = beside ? 4 : 3;
        for (long i = 0; i < units; i += LANES) {
            Vector reset = zeros(), update = zeros(), candidate = load(given + 2 * units + i);
            for (int part = 0; part < count; ++part) {
                reset += load(parts[part] + i);
                update += load(parts[part] + units + i);
            }
            if (beside) candidate += load(beside + 2 * units + i);
            reset = sigmoid(reset);
            update = sigmoid(update);
            Vector again = load(recurrent + 2 * units + i) + load(bias + 2 * units + i);
            candidate = tanh(fma(reset, again, candidate));
            store(now + i, fma(update, load(previous + i) - candidate, candidate));
            store(kept + i, reset);
            store(kept + units + i, update);
            store(kept + 2 * units + i, candidate);
            store(kept + 3 * units + i, again);
        }
    }

    // `carried`: the gradient of the state after step t, without `d_hidden` from outside; then of the one before, less
    // what goes through the product. Writes the gradients of the inputs, as an operand, too, if that is wanted, and of
    // the product; adds up the bias's.
    void backward(long t, long b, const float* d_hidden, float* carried, float* d_inputs, T* d_operand, T* d_recurrent,
                  float* d_bias) const {
        const float *previous = before(t, b), *kept = saved + (t * batch + b) * 4 * units;
        const Vector one = all(1.0f);
        for (long i = 0; i < units; i += LANES) {
            Vector reset = load(kept + i), update = load(kept + units + i), candidate = load(kept + 2 * units + i);
            Vector d_state = load(carried + i) + load(d_hidden + i), keep = one - update;
            Vector d_candidate = d_state * keep * (one - candidate * candidate);
            Vector d_update = d_state * (load(previous + i) - candidate) * update * keep;
            Vector d_again = d_candidate * reset;
            Vector d_reset = d_again * load(kept + 3 * units + i) * (one - reset);
            store(carried + i, d_state * update);
            Vector of_inputs[] = {d_reset, d_update, d_candidate}, of_product[] = {d_reset, d_update, d_again};
            for (int gate = 0; gate < 3; ++gate) {
                long to = gate * units + i;
                store(d_inputs + to, of_inputs[gate]);
                if (d_operand) store(d_operand + to, of_inputs[gate]);
                store(d_recurrent + to, of_product[gate]);
                store(d_bias + to, load(d_bias + to) + of_product[gate]);
            }
        }
    }

    // Adds what came through the product to the gradient of the state.
    void carry(long b, const float* through, float* carried) const {
        if (!mask) return add(through, carried, units);
        for (long i = 0; i < units; i += LANES)
            store(carried + i, fma(load(through + i), load(mask + b * units + i), load(carried + i)));
    }
};

// ---------------------------------------------------------------------------------------------- attention

struct Attention {
    long source, key_size, value_size;
    bool additive;
    const float *keys, *values;  // [batch, source, key_size], exp(2 keys) if additive; [batch, source, value_size]
    const std::uint8_t* absent;  // [batch, source]
    const float* score_weight;   // [key_size], or the one factor of a dot product

    // 1 / (1 + exp(2 key) exp(2 query)), of which tanh(key + query) is 1 minus the double.
    static Vector squash(Vector key, Vector query) { return all(1.0f) / fma(key, query, all(1.0f)); }

    // `query` is overwritten by what is kept of it; `weights` and `context` are this step's of the sentence.
    void forward(long sentence, float* query, float* weights, float* context) const {
        const float *key = keys + sentence * source * key_size, *value = values + sentence * source * value_size;
        const std::uint8_t* missing = absent + sentence * source;
        if (additive)
            for (long i = 0; i < key_size; i += LANES) store(query + i, exponential(load(query + i) + load(query + i)));
        float highest = -INFINITY;
        for (long s = 0; s < source; ++s) {
            if (missing[s]) continue;
            Vector score = zeros();
            for (long i = 0; i < key_size; i += LANES) {
                Vector k = load(key + s * key_size + i), q = load(query + i);
                score = additive ? fma(load(score_weight + i), squash(k, q), score) : fma(k, q, score);
            }
            weights[s] = additive ? -2.0f * sum(score) : *score_weight * sum(score);
            highest = std::max(highest, weights[s]);
        }
        alignas(64) float grown[LANES];
        float total = 0.0f;
        for (long s = 0; s < source; s += LANES) {
            long count = std::min(LANES, source - s);
            for (long i = 0; i < LANES; ++i) grown[i] = i < count && !missing[s + i] ? weights[s + i] - highest : -1e9f;
            store(grown, exponential(load(grown)));
            for (long i = 0; i < count; ++i) total += weights[s + i] = missing[s + i] ? 0.0f : grown[i];
        }
        for (long s = 0; s < source; ++s) weights[s] /= total;
        for (long i = 0; i < value_size; i += LANES) {
            Vector mean = zeros();
            for (long s = 0; s < source; ++s) mean = fma(all(weights[s]), load(value + s * value_size + i), mean);
            store(context + i, mean);
        }
    }

    // Adds to d_keys and d_factor ([key_size] of this sentence: of the score's weight), writes d_query.
    void backward(long sentence, const float* query, const float* weights, const float* d_context, float* d_query,
                  float* d_keys, float* d_factor, float* d_scores) const {
        const float *key = keys + sentence * source * key_size, *value = values + sentence * source * value_size;
        const std::uint8_t* missing = absent + sentence * source;
        float mean = 0.0f;
        for (long s = 0; s < source; ++s) {
            Vector product = zeros();
            if (!missing[s])
                for (long i = 0; i < value_size; i += LANES)
                    product = fma(load(d_context + i), load(value + s * value_size + i), product);
            d_scores[s] = sum(product);
            mean += weights[s] * d_scores[s];
        }
        for (long s = 0; s < source; ++s) d_scores[s] = weights[s] * (d_scores[s] - mean);
        for (long i = 0; i < key_size; i += LANES) {
            Vector q = load(query + i), of_query = zeros(), of_factor = zeros();
            for (long s = 0; s < source; ++s) {
                if (missing[s]) continue;
                float* d_key = d_keys + s * key_size + i;
                Vector k = load(key + s * key_size + i), d_score = all(d_scores[s]), slope = k;
                if (additive) {
                    Vector squashed = squash(k, q);
                    slope = squashed - squashed * squashed;  // tanh' = 4 s (1 - s)
                    of_factor = fma(d_score, squashed, of_factor);
                    store(d_key, fma(d_score, slope, load(d_key)));
                } else {
                    store(d_key, fma(d_score, q, load(d_key)));
                }
                of_query = fma(d_score, slope, of_query);
            }
            store(d_query + i, of_query * (additive ? all(4.0f) * load(score_weight + i) : all(*score_weight)));
            if (additive) store(d_factor + i, load(d_factor + i) - all(2.0f) * of_factor);
        }
    }
};

// ---------------------------------------------------------------------------------------------- whole sequences

// run_sequence. Tensors without gaps, named as there; T numbers are void.
struct Sequence {
    long steps, directions, batch, units;
    const float *inputs, *start, *weight, *bias, *mask;  // [T, B, D, 3H], [D, B, H], [D, 3H, H], [D, 3H], [D, B, H] or null
    const std::int64_t* mirror;                          // [T, B]: the places of the second direction's steps; or null
    float *hidden, *saved;                               // [T, B, D, H], [D, T, B, 4H]
    void* read;                                          // [D, T, B, H]
    const float* d_hidden;                               // from here on for the way back
    float *d_inputs, *d_start, *d_bias;                  // the last two zero at first: [D, B, H], [D, B, 3H]
    void* d_recurrent;                                   // [D, T, B, 3H]

    long gates() const { return 3 * units; }

    template <class T>
    Cells<T> cells(long direction) const {
        long first = direction * batch * units;
        return {units, batch, directions, start + first, bias + direction * gates(), mask ? mask + first : nullptr,
                hidden + direction * units, saved + 4 * steps * first, (T*)read + steps * first,
                direction ? mirror : nullptr};
    }

    // What a thread does for the sentences [begin, end) of each direction that it has any of.
    template <class Work>
    void for_each_direction(long thread, long threads, Work work) const {
        Share share(directions * batch, thread, threads);
        for (long direction = 0; direction < directions; ++direction) {
            long begin = std::max(share.begin - direction * batch, 0L);
            long end = std::min(share.end - direction * batch, batch);
            if (begin < end) work(direction, begin, end);
        }
    }
};

template <class T>
void forward(const Sequence& s) {
    const long gates = s.gates();
    std::vector<Packed<T>> weights;
    for (long direction = 0; direction < s.directions; ++direction) weights.emplace_back(gates, s.units);
    in_parallel([&](long thread, long threads) {
        for (long direction = 0; direction < s.directions; ++direction)
            weights[direction].fill(s.weight + direction * gates * s.units, s.units, 1, thread, threads);
        barrier();
        s.for_each_direction(thread, threads, [&](long direction, long begin, long end) {
            Cells<T> cells = s.cells<T>(direction);
            const float* inputs = s.inputs + direction * gates;
            std::vector<float> recurrent((end - begin) * gates);
            for (long t = 0; t < s.steps; ++t) {
                for (long b = begin; b < end; ++b) cells.recall(t, b);
                weights[direction].multiply(Rows<T>{cells.operand(t, 0), s.units}, begin, end - begin, nullptr,
                                            recurrent.data(), gates);
                for (long b = begin; b < end; ++b)
                    cells.forward(t, b, inputs + cells.at(t, b, gates), nullptr, &recurrent[(b - begin) * gates]);
            }
        });
    });
}

template <class T>
void backward(const Sequence& s) {
    const long gates = s.gates();
    std::vector<Packed<T>> weights;
    for (long direction = 0; direction < s.directions; ++direction) weights.emplace_back(s.units, gates);
    in_parallel([&](long thread, long threads) {
        for (long direction = 0; direction < s.directions; ++direction)
            weights[direction].fill(s.weight + direction * gates * s.units, 1, s.units, thread, threads);
        barrier();
        s.for_each_direction(thread, threads, [&](long direction, long begin, long end) {
            Cells<T> cells = s.cells<T>(direction);
            const float* d_hidden = s.d_hidden + direction * s.units;
            float *d_inputs = s.d_inputs + direction * gates, *d_bias = s.d_bias + direction * s.batch * gates;
            float* carried = s.d_start + direction * s.batch * s.units;
            std::vector<float> through((end - begin) * s.units);
            for (long t = s.steps - 1; t >= 0; --t) {
                T* d_recurrent = (T*)s.d_recurrent + (direction * s.steps + t) * s.batch * gates;
                for (long b = begin; b < end; ++b)
                    cells.backward(t, b, d_hidden + cells.at(t, b, s.units), carried + b * s.units,
                                   d_inputs + cells.at(t, b, gates), nullptr, d_recurrent + b * gates, d_bias + b * gates);
                weights[direction].multiply(Rows<T>{d_recurrent, gates}, begin, end - begin, nullptr, through.data(), s.units);
                for (long b = begin; b < end; ++b) cells.carry(b, &through[(b - begin) * s.units], carried + b * s.units);
            }
        });
    });
}

// run_attended. Query and gates read the same state, so they are one product: `joint`, A + 3H numbers.
struct Attended {
    long steps, batch, source, units, key_size, value_size, additive;
    const float *inputs, *keys, *values;  // [T, B, 3H]; [B, S, A], exp(2 keys) if additive; [B, S, C]
    const float *joint_weight, *score_weight, *context_weight;  // [A + 3H, H]; [A] or, without `additive`, [1]; [3H, C]
    const float *bias, *start, *mask, *asked;                   // [3H], [B, H], [B, H] or null, [T, B, A] or null
    const std::uint8_t* absent;                                 // [B, S]
    float *hidden, *saved, *queries, *weights, *contexts;       // [T, B, H], [T, B, 4H], [T, B, A], [T, B, S], [T, B, C]
    void *read, *read_contexts;                                 // [T, B, H], [T, B, C]
    const float *d_hidden, *d_read_contexts;                    // from here on for the way back
    float *d_inputs, *d_contexts, *d_queries;                   // the last one or null
    float *d_start, *d_bias, *d_keys, *d_factor;                // zero at first: [B, H], [B, 3H], [B, S, A], [B, A]
    void *d_operand, *d_joint;                                  // [T, B, 3H], [T, B, A + 3H]

    long gates() const { return 3 * units; }
    long width() const { return key_size + gates(); }

    template <class T>
    Cells<T> cells() const {
        return {units, batch, 1, start, bias, mask, hidden, saved, (T*)read, nullptr};
    }
    Attention attention() const {
        return {source, key_size, value_size, additive != 0, keys, values, absent, score_weight};
    }
};

template <class T>
void forward(const Attended& a) {
    const long gates = a.gates(), width = a.width();
    Packed<T> joint_weight(width, a.units), context_weight(gates, a.value_size);
    in_parallel([&](long thread, long threads) {
        joint_weight.fill(a.joint_weight, a.units, 1, thread, threads);
        context_weight.fill(a.context_weight, a.value_size, 1, thread, threads);
        barrier();
        Cells<T> cells = a.cells<T>();
        Attention attention = a.attention();
        Share share(a.batch, thread, threads);
        std::vector<float> joint(share.size() * width), beside(share.size() * gates);
        for (long t = 0; t < a.steps; ++t) {
            for (long b = share.begin; b < share.end; ++b) cells.recall(t, b);
            joint_weight.multiply(Rows<T>{cells.operand(t, 0), a.units}, share.begin, share.size(), nullptr,
                                  joint.data(), width);
            T* read_contexts = (T*)a.read_contexts + t * a.batch * a.value_size;
            for (long b = share.begin; b < share.end; ++b) {
                long at = t * a.batch + b;
                float *query = a.queries + at * a.key_size, *context = a.contexts + at * a.value_size;
                std::copy_n(&joint[(b - share.begin) * width], a.key_size, query);
                if (a.asked) add(a.asked + at * a.key_size, query, a.key_size);
                attention.forward(b, query, a.weights + at * a.source, context);
                round(context, read_contexts + b * a.value_size, a.value_size);
            }
            context_weight.multiply(Rows<T>{read_contexts, a.value_size}, share.begin, share.size(), nullptr, beside.data(),
                                    gates);
            for (long b = share.begin; b < share.end; ++b)
                cells.forward(t, b, a.inputs + (t * a.batch + b) * gates, &beside[(b - share.begin) * gates],
                              &joint[(b - share.begin) * width + a.key_size]);
        }
    });
}

template <class T>
void backward(const Attended& a) {
    const long gates = a.gates(), width = a.width();
    Packed<T> joint_weight(a.units, width), context_weight(a.value_size, gates);
    in_parallel([&](long thread, long threads) {
        joint_weight.fill(a.joint_weight, 1, a.units, thread, threads);
        context_weight.fill(a.context_weight, 1, a.value_size, thread, threads);
        barrier();
        Cells<T> cells = a.cells<T>();
        Attention attention = a.attention();
        Share share(a.batch, thread, threads);
        std::vector<float> through(share.size() * std::max(a.units, a.value_size)), d_query(a.key_size), d_scores(a.source);
        for (long t = a.steps - 1; t >= 0; --t) {
            T *d_operand = (T*)a.d_operand + t * a.batch * gates, *d_joint = (T*)a.d_joint + t * a.batch * width;
            for (long b = share.begin; b < share.end; ++b) {
                long at = t * a.batch + b;
                cells.backward(t, b, a.d_hidden + at * a.units, a.d_start + b * a.units, a.d_inputs + at * gates,
                               d_operand + b * gates, d_joint + b * width + a.key_size, a.d_bias + b * gates);
            }
            context_weight.multiply(Rows<T>{d_operand, gates}, share.begin, share.size(), nullptr, through.data(),
                                    a.value_size);
            for (long b = share.begin; b < share.end; ++b) {
                long at = t * a.batch + b;
                float* d_context = a.d_contexts + at * a.value_size;
                std::copy_n(&through[(b - share.begin) * a.value_size], a.value_size, d_context);
                add(a.d_read_contexts + at * a.value_size, d_context, a.value_size);
                attention.backward(b, a.queries + at * a.key_size, a.weights + at * a.source, d_context, d_query.data(),
                                   a.d_keys + b * a.source * a.key_size, a.d_factor + b * a.key_size, d_scores.data());
                round(d_query.data(), d_joint + b * width, a.key_size);
                if (a.d_queries) std::copy_n(d_query.data(), a.key_size, a.d_queries + at * a.key_size);
            }
            joint_weight.multiply(Rows<T>{d_joint, width}, share.begin, share.size(), nullptr, through.data(), a.units);
            for (long b = share.begin; b < share.end; ++b)
                cells.carry(b, &through[(b - share.begin) * a.units], a.d_start + b * a.units);
        }
    });
}

}  // namespace nmt
