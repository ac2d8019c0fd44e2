// What library.py calls: each function with the struct of its name, once for each type of operand.

#include "loss.h"
#include "products.h"
#include "recurrence.h"
#include "search.h"

#define KERNEL(name, Arguments, function)                                                      \
    void name##_float32(const nmt::Arguments* arguments) { nmt::function<float>(*arguments); } \
    void name##_bfloat16(const nmt::Arguments* arguments) { nmt::function<nmt::Bfloat16>(*arguments); }

extern "C" {
void use_threads(int threads) { omp_set_num_threads(threads); }

KERNEL(product, Product, run)
KERNEL(transposed_product, TransposedProduct, run)
KERNEL(sequence_forward, Sequence, forward)
KERNEL(sequence_backward, Sequence, backward)
KERNEL(attended_forward, Attended, forward)
KERNEL(attended_backward, Attended, backward)
KERNEL(loss, Loss, run)
KERNEL(attend, Attend, run)
KERNEL(best, Best, run)
}
