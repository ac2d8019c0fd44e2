"""One short file per DVC stage. A stage reads files, calls the library, writes files, and reports to MLflow."""

import importlib.util
import multiprocessing
import os
import sys

from nmt.lifeline import end_with_parent

_NEEDED = ("numpy", "pydantic", "ruamel.yaml", "torch")


def _complain_about_python() -> None:
    """A stage started by a Python without our packages says so in one line, before any import fails."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name.partition(".")[0]) is None]
    if missing:
        sys.exit(
            f"error: {sys.executable} started this stage but lacks {', '.join(missing)}; "
            "run `make repro`, or activate .venv before calling `dvc` (source .venv/bin/activate)"
        )


# DVC sets it for what it starts; what a person starts may outlive its terminal, and a pool looks after its own workers.
if "DVC_STAGE" in os.environ and multiprocessing.parent_process() is None:
    end_with_parent()
_complain_about_python()
