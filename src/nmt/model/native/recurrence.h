// The recurrences of model/recurrence.py for one GRU or LSTM layer.
//
// No sentence's states depend on another's, so a thread takes its share of a batch through all steps, forward or back,
// without a word to the others: products, cells and attention of a step run while its numbers lie in the core's own
// cache. Gradients of weights, which sum over sentences, are left to the caller. No result depends on the number of
// threads.

#pragma once

#include <vector>

#include "products.h"

namespace nmt {

// ---------------------------------------------------------------------------------------------- a cell

// The states of one direction's sentences, of `units` numbers: a GRU's, or an LSTM's if there are memories.
template <class T>
struct Cells {
    long units, batch, directions;
    const float *start, *start_cell_state;  // [batch, units] each
    const float *bias, *mask;               // [gates]; [batch, units] or null
    float *hidden, *cell_state;  // [steps, batch, directions, units], from this direction on; a GRU has no cell_state
    float* saved;                // [steps, batch, saved_width()]: for the backward pass
    T* read;                     // [steps, batch, units]: operands of the recurrent product
    const std::int64_t* order;   // [steps, batch]: at which place each step stands; null if that is the step

    long gates() const { return (cell_state ? 4 : 3) * units; }
    long saved_width() const { return (cell_state ? 5 : 4) * units; }
    long place(long t, long b) const { return order ? order[t * batch + b] : t; }

    // Where a number of all directions' rows [steps, batch, directions, width] lies.
    long at(long t, long b, long width) const { return (place(t, b) * batch + b) * directions * width; }

    const float* before(long t, long b) const { return t ? hidden + at(t - 1, b, units) : start + b * units; }
    const float* cell_state_before(long t, long b) const {
        return t ? cell_state + at(t - 1, b, units) : start_cell_state + b * units;
    }

    T* operand(long t, long b) const { return read + (t * batch + b) * units; }

    // The operand of step t's product.
    void recall(long t, long b) const {
        const float* from = before(t, b);
        if (!mask) return round(from, operand(t, b), units);
        for (long i = 0; i < units; i += LANES) store(operand(t, b) + i, load(from + i) * load(mask + b * units + i));
    }

    // `given` and, unless null, `beside` are the projected inputs, `recurrent` is the product.
    void forward(long t, long b, const float* given, const float* beside, const float* recurrent) const {
        const float* parts[] = {given, recurrent, bias, beside};
        const int count = beside ? 4 : 3;
        float *now = hidden + at(t, b, units), *keep = saved + (t * batch + b) * saved_width();
        auto gate = [&](long at) {
            Vector x = load(given + at);
            for (int part = 1; part < count; ++part) x += load(parts[part] + at);
            return x;
        };
        if (cell_state) {
            const float* previous = cell_state_before(t, b);
            float* next = cell_state + at(t, b, units);
            for (long i = 0; i < units; i += LANES) {
                Vector input_gate = sigmoid(gate(i)), forget_gate = sigmoid(gate(units + i));
                Vector candidate = tanh(gate(2 * units + i)), output_gate = sigmoid(gate(3 * units + i));
                Vector cell = fma(forget_gate, load(previous + i), input_gate * candidate), squashed = tanh(cell);
                store(next + i, cell);
                store(now + i, output_gate * squashed);
                Vector all_saved[] = {input_gate, forget_gate, candidate, output_gate, squashed};
                for (int k = 0; k < 5; ++k) store(keep + k * units + i, all_saved[k]);
            }
            return;
        }
        const float* previous = before(t, b);
        for (long i = 0; i < units; i += LANES) {
            Vector reset = sigmoid(gate(i)), update = sigmoid(gate(units + i));
            Vector again = load(recurrent + 2 * units + i) + load(bias + 2 * units + i);
            Vector candidate = load(given + 2 * units + i);
            if (beside) candidate += load(beside + 2 * units + i);
            candidate = tanh(fma(reset, again, candidate));
            store(now + i, fma(update, load(previous + i) - candidate, candidate));
            Vector all_saved[] = {reset, update, candidate, again};
            for (int k = 0; k < 4; ++k) store(keep + k * units + i, all_saved[k]);
        }
    }

    // `carried` comes as the gradient of the state after step t without `d_hidden`, and leaves as that of the state
    // before without what goes through the product (`carry` adds it); `carried_cell_state` is the same of an LSTM's
    // cell state. Writes the gradients of the inputs, as an operand, too, if that is wanted, and of the product; adds
    // up the bias's.
    void backward(long t, long b, const float* d_hidden, float* carried, float* carried_cell_state, float* d_inputs,
                  T* d_operand, T* d_recurrent, float* d_bias) const {
        const float* keep = saved + (t * batch + b) * saved_width();
        const Vector one = all(1.0f);
        auto write = [&](long at, Vector of_inputs, Vector of_product) {
            store(d_inputs + at, of_inputs);
            if (d_operand) store(d_operand + at, of_inputs);
            store(d_recurrent + at, of_product);
            store(d_bias + at, load(d_bias + at) + of_product);
        };
        if (cell_state) {
            const float* previous = cell_state_before(t, b);
            for (long i = 0; i < units; i += LANES) {
                Vector input_gate = load(keep + i), forget_gate = load(keep + units + i),
                       candidate = load(keep + 2 * units + i);
                Vector output_gate = load(keep + 3 * units + i), squashed = load(keep + 4 * units + i);
                Vector d_state = load(carried + i) + load(d_hidden + i);
                Vector d_cell_state =
                    fma(d_state * output_gate, one - squashed * squashed, load(carried_cell_state + i));
                Vector d_gates[] = {d_cell_state * candidate * input_gate * (one - input_gate),
                                    d_cell_state * load(previous + i) * forget_gate * (one - forget_gate),
                                    d_cell_state * input_gate * (one - candidate * candidate),
                                    d_state * squashed * output_gate * (one - output_gate)};
                for (int gate = 0; gate < 4; ++gate) write(gate * units + i, d_gates[gate], d_gates[gate]);
                store(carried_cell_state + i, d_cell_state * forget_gate);
                store(carried + i, zeros());
            }
            return;
        }
        const float* previous = before(t, b);
        for (long i = 0; i < units; i += LANES) {
            Vector reset = load(keep + i), update = load(keep + units + i), candidate = load(keep + 2 * units + i);
            Vector d_state = load(carried + i) + load(d_hidden + i), stay = one - update;
            Vector d_candidate = d_state * stay * (one - candidate * candidate), d_again = d_candidate * reset;
            Vector d_update = d_state * (load(previous + i) - candidate) * update * stay;
            Vector d_reset = d_again * load(keep + 3 * units + i) * (one - reset);
            write(i, d_reset, d_reset);
            write(units + i, d_update, d_update);
            write(2 * units + i, d_candidate, d_again);
            store(carried + i, d_state * update);
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
    const float *keys, *values;   // [batch, source, key_size], exp(2 keys) if additive; [batch, source, value_size]
    const std::uint8_t* padding;  // [batch, source]
    const float* score_weight;    // [key_size], or the one factor of a dot product

    // 1 / (1 + exp(2 key) exp(2 query)), of which tanh(key + query) is 1 minus the double.
    static Vector squash(Vector key, Vector query) { return all(1.0f) / fma(key, query, all(1.0f)); }

    // `query` is overwritten by what is kept of it; `weights` and `context` are this step's of the sentence.
    void forward(long sentence, float* query, float* weights, float* context) const {
        const float *key = keys + sentence * source * key_size, *value = values + sentence * source * value_size;
        const std::uint8_t* padded = padding + sentence * source;
        if (additive)
            for (long i = 0; i < key_size; i += LANES) store(query + i, exponential(load(query + i) + load(query + i)));
        float highest = -INFINITY;
        for (long s = 0; s < source; ++s) {
            if (padded[s]) continue;
            Vector score = zeros();
            for (long i = 0; i < key_size; i += LANES) {
                Vector k = load(key + s * key_size + i), q = load(query + i);
                score = additive ? fma(load(score_weight + i), squash(k, q), score) : fma(k, q, score);
            }
            weights[s] = additive ? -2.0f * sum(score) : *score_weight * sum(score);
            highest = std::max(highest, weights[s]);
        }
        alignas(64) float powers[LANES];
        float total = 0.0f;
        for (long s = 0; s < source; s += LANES) {
            long count = std::min(LANES, source - s);
            for (long i = 0; i < LANES; ++i) powers[i] = i < count && !padded[s + i] ? weights[s + i] - highest : -1e9f;
            store(powers, exponential(load(powers)));
            for (long i = 0; i < count; ++i) total += weights[s + i] = padded[s + i] ? 0.0f : powers[i];
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
        const std::uint8_t* padded = padding + sentence * source;
        float mean = 0.0f;
        for (long s = 0; s < source; ++s) {
            Vector product = zeros();
            if (!padded[s])
                for (long i = 0; i < value_size; i += LANES)
                    product = fma(load(d_context + i), load(value + s * value_size + i), product);
            d_scores[s] = sum(product);
            mean += weights[s] * d_scores[s];
        }
        for (long s = 0; s < source; ++s) d_scores[s] = weights[s] * (d_scores[s] - mean);
        for (long i = 0; i < key_size; i += LANES) {
            Vector q = load(query + i), of_query = zeros(), of_factor = zeros();
            for (long s = 0; s < source; ++s) {
                if (padded[s]) continue;
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

// run_sequence. Tensors without gaps, named as there; those of type T are void*.
struct Sequence {
    long steps, directions, batch, units;
    const float *inputs, *start, *start_cell_state;  // [T, B, D, G], [D, B, H] each; a GRU's memories are null
    const float *weight, *bias, *mask;               // [D, G, H], [D, G], [D, B, H] or null
    const std::int64_t* mirror;                      // [T, B]: the places of the second direction's steps; or null
    float *hidden, *cell_state, *saved;              // [T, B, D, H] each, [D, T, B, saved_width()]
    void* read;                                      // [D, T, B, H]
    const float* d_hidden;                           // from here on for the backward pass
    float* d_inputs;
    float *d_start, *d_start_cell_state, *d_bias;  // zero at first: [D, B, H] each, [D, B, G]
    void* d_recurrent;                             // [D, T, B, G]

    long gates() const { return cells<float>(0).gates(); }

    template <class T>
    Cells<T> cells(long direction) const {
        long first = direction * batch * units;
        Cells<T> cells{units,
                       batch,
                       directions,
                       start + first,
                       start_cell_state ? start_cell_state + first : nullptr,
                       bias,
                       mask ? mask + first : nullptr,
                       hidden + direction * units,
                       cell_state ? cell_state + direction * units : nullptr,
                       saved,
                       (T*)read + steps * first,
                       direction ? mirror : nullptr};
        cells.bias += direction * cells.gates();
        cells.saved += direction * steps * batch * cells.saved_width();
        return cells;
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
            float* carried_cell_state =
                s.d_start_cell_state ? s.d_start_cell_state + direction * s.batch * s.units : nullptr;
            std::vector<float> through((end - begin) * s.units);
            for (long t = s.steps - 1; t >= 0; --t) {
                T* d_recurrent = (T*)s.d_recurrent + (direction * s.steps + t) * s.batch * gates;
                for (long b = begin; b < end; ++b)
                    cells.backward(t, b, d_hidden + cells.at(t, b, s.units), carried + b * s.units,
                                   carried_cell_state ? carried_cell_state + b * s.units : nullptr,
                                   d_inputs + cells.at(t, b, gates), nullptr, d_recurrent + b * gates,
                                   d_bias + b * gates);
                weights[direction].multiply(Rows<T>{d_recurrent, gates}, begin, end - begin, nullptr, through.data(),
                                            s.units);
                for (long b = begin; b < end; ++b)
                    cells.carry(b, &through[(b - begin) * s.units], carried + b * s.units);
            }
        });
    });
}

// run_attended. Query and gates read the same state, so they are one product: `joint`, A + G numbers.
struct Attended {
    long steps, batch, source, units, key_size, value_size, additive;
    const float *inputs, *keys, *values;  // [T, B, G]; [B, S, A], exp(2 keys) if additive; [B, S, C]
    const float *joint_weight, *score_weight, *context_weight;    // [A + G, H]; [A] or, without `additive`, [1]; [G, C]
    const float *bias, *start, *start_cell_state, *mask, *asked;  // [G]; [B, H] each, null in part; [T, B, A] or null
    const std::uint8_t* padding;                                  // [B, S]
    float *hidden, *cell_state, *saved;                           // [T, B, H] each, null in part; [T, B, saved_width()]
    float *queries, *weights, *contexts;                          // [T, B, A], [T, B, S], [T, B, C]
    void *read, *read_contexts;                                   // [T, B, H], [T, B, C]
    const float *d_hidden, *d_read_contexts;                      // from here on for the backward pass
    float *d_inputs, *d_contexts, *d_queries;                     // the last one or null
    float *d_start, *d_start_cell_state;                          // zero at first, as those that follow: [B, H] each
    float *d_bias, *d_keys, *d_factor;                            // [B, G], [B, S, A], [B, A]
    void *d_operand, *d_joint;                                    // [T, B, G], [T, B, A + G]

    long gates() const { return cells<float>().gates(); }
    long width() const { return key_size + gates(); }

    template <class T>
    Cells<T> cells() const {
        return {units, batch, 1, start, start_cell_state, bias, mask, hidden, cell_state, saved, (T*)read, nullptr};
    }
    Attention attention() const {
        return {source, key_size, value_size, additive != 0, keys, values, padding, score_weight};
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
            context_weight.multiply(Rows<T>{read_contexts, a.value_size}, share.begin, share.size(), nullptr,
                                    beside.data(), gates);
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
        std::vector<float> through(share.size() * std::max(a.units, a.value_size)), d_query(a.key_size),
            d_scores(a.source);
        for (long t = a.steps - 1; t >= 0; --t) {
            T *d_operand = (T*)a.d_operand + t * a.batch * gates, *d_joint = (T*)a.d_joint + t * a.batch * width;
            for (long b = share.begin; b < share.end; ++b) {
                long at = t * a.batch + b;
                cells.backward(t, b, a.d_hidden + at * a.units, a.d_start + b * a.units,
                               a.d_start_cell_state ? a.d_start_cell_state + b * a.units : nullptr,
                               a.d_inputs + at * gates, d_operand + b * gates, d_joint + b * width + a.key_size,
                               a.d_bias + b * gates);
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
