"""Start the processes of a team on this machine, and start them anew when some are killed.

The processes are torchrun's (torch.distributed.elastic), so what runs here runs under `torchrun` on several machines,
too. Only who is started again is decided here: processes that were killed, and never one that has told what is wrong.
"""

import logging
import os
import signal
import socket
import sys
import uuid
from collections.abc import Sequence

from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

RESTARTS = 3
"""How often processes that were killed are started anew; a training goes on from its last state each time."""
LOST = os.EX_TEMPFAIL
"""What a process ends with that has lost another: no fault of its own."""
_LOOPBACK = "127.0.0.1"

log = logging.getLogger(__name__)


def launch(processes: int, *command: str) -> int:
    """Run `python -m command` in so many processes, one team; returns the exit status, 0 if all have ended well."""
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # it tells at length what is told here
    if any(name == "lo" for _, name in socket.if_nameindex()):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    try:
        for left in reversed(range(RESTARTS + 1)):
            failed = _run(processes, command)
            told = [status for status in failed.values() if status > 0 and status != LOST]
            if told or not failed:
                return told[0] if told else 0
            log.warning("%s; %s", _tell(failed), "all are started again" if left else "given up")
    except SignalException as ended:
        return 128 + ended.sigval
    return LOST


def _run(processes: int, command: Sequence[str]) -> dict[int, int]:
    """Run to the end; returns the exit status of each process that failed, negative where a signal ended it."""
    try:
        elastic_launch(_config(processes), sys.executable)("-m", *command)
    except ChildFailedError as error:
        return {rank: failure.exitcode for rank, failure in error.failures.items()}
    return {}


def _config(processes: int) -> LaunchConfig:
    return LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint=f"{_LOOPBACK}:0",
        local_addr=_LOOPBACK,
        max_restarts=0,
    )


def _tell(failed: dict[int, int]) -> str:
    """Which processes were ended, but for those that had to go with them."""
    killed = {rank: -status for rank, status in failed.items() if status not in (LOST, -signal.SIGTERM)}
    return ", ".join(f"process {rank} was ended by {_name(number)}" for rank, number in killed.items()) or (
        "processes have lost each other"
    )


def _name(number: int) -> str:
    return signal.Signals(number).name if number in signal.valid_signals() else f"signal {number}"
