"""Translate the test set with the models of all seeds of one variant together.

Reads   models/<variant>/<seed> of each seed, data/prepared/test.{source.txt,target.txt,jsonl}
Writes  reports/translations/<variant>/ensemble: hypotheses.txt, hypotheses.jsonl, attention.npz, references.jsonl,
        references.attention.npz and joined.jsonl, as `translate` writes them of one model
Params  seeds, runtime, translate

Influence and disturbed attention are questions to one model, and are not asked here. What a killed run has done is
kept, as in `translate`.
"""

from contextlib import closing

from nmt import paths, unfinished
from nmt.config import load_params
from nmt.decoding import Decoding
from nmt.runtime import processes, resolve
from nmt.stages.runner import run_for_variant
from nmt.stages.translate import (
    consecutive_groups,
    gather,
    part,
    read_test_set,
    useful_cores,
    work_id,
    write_hypotheses,
    write_joined,
    write_references,
)
from nmt.translator import Translator


def main(variant: str) -> None:
    """Translate the test set with one ensemble."""
    params = load_params()
    sources, targets, pairs = read_test_set()
    first, *others = (paths.bundle(variant, seed) for seed in params.seeds)
    translator = Translator.load(
        first,
        Decoding.of(params.translate),
        others=others,
        device=params.runtime.device,
        threads=params.runtime.threads,
        processes=processes(resolve(params.runtime).device, cores=useful_cores(len(sources), params.runtime.threads)),
    )
    groups = [group for joined in params.translate.joined for group in consecutive_groups(len(sources), joined)]
    work = work_id("translate_ensemble", variant, paths.ENSEMBLE, translator)
    with closing(translator), unfinished.work("translate_ensemble", work) as done:
        part(done / "hypotheses", write_hypotheses, translator, sources)
        part(done / "references", write_references, translator, sources, targets)
        part(done / "joined", write_joined, translator, groups, sources, pairs)
        gather(done, paths.translations(variant, paths.ENSEMBLE))


if __name__ == "__main__":
    run_for_variant(main)
