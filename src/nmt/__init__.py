"""Recurrent sequence-to-sequence translation, with and without attention."""

import os

__version__ = "0.1.0"

# OpenMP and MKL read these once, when torch is imported; hence here, and not where threads are set.
# A thread that spins for long starves the one it waits for when the machine is busy: training was ten times slower so.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
# A number of threads that follows the load would change the order of sums, and with it the last bits.
os.environ.setdefault("OMP_DYNAMIC", "false")
