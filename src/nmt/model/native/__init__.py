"""The model's heaviest work in C++, for processors with AVX-512 and its bfloat16 instructions.

Each module here computes what the module of the same name in `nmt.model` does (prediction.py: parts of nmt.prediction
and nmt.search), which stays the reference; library.py compiles them.

    products.h     matrix products           products.py
    recurrence.h   a layer, with attention   recurrence.py
    loss.h         the loss over the words   output.py
    search.h       a step of prediction      prediction.py
    vectors.h      sixteen numbers at a time, threads
"""
