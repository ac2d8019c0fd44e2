"""A process that ends with the one that started it.

Whoever kills dvc alone means its stage, too: left alone it would go on unseen, and beside the second one that the next
`dvc repro` starts. Linux sends a signal when a parent dies; elsewhere, and where that came too late, a thread sees it.
The signal is SIGTERM, at which a training saves its state; a process that does not heed it is killed.
"""

import ctypes
import os
import signal
import sys
import threading
import time

LOOK_SECONDS = 0.5
GRACE_SECONDS = 20.0
_PR_SET_PDEATHSIG = 1  # of prctl(2)


def end_with_parent() -> None:
    """From now on, end when the parent has ended.

    dvc.yaml's commands begin with `exec`, so a stage's parent is dvc itself and no shell that would outlive it.
    """
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    threading.Thread(target=_watch, args=(parent,), name="lifeline", daemon=True).start()


def _watch(parent: int) -> None:
    """End this process once its parent is another; the first look is for a parent that died before we asked."""
    while os.getppid() == parent:
        time.sleep(LOOK_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)
