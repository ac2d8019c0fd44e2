"""The model's heaviest work in C++, for processors with AVX-512 and its bfloat16 instructions.

Each module here has the functions of the module of the same name in `nmt.model`, which stays the reference; library.py
compiles them.

    products.h     matrix products           products.py
    recurrence.h   a GRU, and with attention recurrence.py
    loss.h         the loss over the words   output.py
    vectors.h      sixteen numbers at a time, threads
"""
