"""Recurrent sequence-to-sequence translation, with and without attention."""

import os

__version__ = "0.1.0"

# OpenMP and MKL read these once, when torch is imported; hence here, and not where threads are set.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning threads starve each other on a busy machine: 10 x slower
os.environ.setdefault("OMP_DYNAMIC", "false")  # a number of threads that follows the load would change the order of sums
