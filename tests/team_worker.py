"""One process of a team in the tests: `python -m tests.team_worker FOLDER [HOW]`, started by the launcher."""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from nmt.batching import ParallelText
from nmt.distributed import Team, team
from nmt.errors import UserError
from nmt.training import Trainer

from .test_distributed import losses, state, trainer_of


def train(folder: Path, team: Team, by_graphs: bool) -> None:
    """Train, and write what came of it and what the process has seen of the others."""
    text = ParallelText.open(folder / "source", folder / "target")
    training = trainer_of(text, team, by_graphs)
    curve = losses(training)
    save_file(state(training), folder / f"{team.rank}.safetensors")
    seen = {
        "losses": curve,
        "agrees": [team.agrees(7), team.agrees(team.rank)],
        "shared": shared(training, team),
        "drifted": drifted(training, team),
    }
    (folder / f"{team.rank}.json").write_text(json.dumps(seen))


def shared(training: Trainer, team: Team) -> bool:
    """Whether the leader's checkpoint is what everyone has; and none is none."""
    assert team.share(None) is None
    checkpoint = team.share(training.checkpoint() if team.leads else None)
    assert checkpoint is not None
    same = all(torch.equal(tensor, checkpoint.tensors[name]) for name, tensor in state(training).items())
    return same and checkpoint.progress == training.checkpoint().progress


def drifted(training: Trainer, team: Team) -> str:
    """What everyone is told when the last process has another bit."""
    if team.rank == team.size - 1:
        with torch.no_grad():
            weight = training.model.bridge.weight
            weight[0, 0] = torch.nextafter(weight[0, 0], torch.tensor(9.0))
    try:
        team.check(training.checkpoint().tensors)
    except UserError as error:
        return str(error)
    return ""


if __name__ == "__main__":
    torch.set_num_threads(1)
    with team(3, torch.device("cpu")) as own:
        train(Path(sys.argv[1]), own, by_graphs="by graphs" in sys.argv[2:])
