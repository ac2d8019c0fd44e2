"""How translations are searched for: settings that belong to a use of a model, not to the model."""

from pathlib import Path

from pydantic import ValidationError, model_validator

from nmt.config import Beam, CoveragePenalty, LengthExtra, LengthPenalty, LengthRatio, Positive, Section, Translate
from nmt.errors import UserError
from nmt.files import read_json
from nmt.records import explain

_NO_COVERAGE = {"coverage_penalty": 0.0}
"""Models registered before there was such a penalty do not name it."""


class Decoding(Section):
    """How translations are searched for; the names and meanings are those of `translate` in params.yaml."""

    beam_size: Beam
    n_best: Positive
    length_penalty: LengthPenalty
    coverage_penalty: CoveragePenalty
    max_length_ratio: LengthRatio
    max_length_extra: LengthExtra
    batch_sentences: Positive

    @model_validator(mode="after")
    def _n_best_fits_beam(self) -> "Decoding":
        if self.n_best > self.beam_size:
            raise ValueError(f"n_best is {self.n_best}, but a beam of {self.beam_size} holds no more than that many")
        return self

    @classmethod
    def of(cls, translate: Translate) -> "Decoding":
        """The decoding part of that section of params.yaml."""
        return cls(**{name: getattr(translate, name) for name in cls.model_fields})

    @classmethod
    def beside(cls, bundle: Path) -> "Decoding":
        """What `decoding.json` in a bundle's folder says; without one, greedy search up to 3 x source pieces + 10."""
        path = bundle / "decoding.json"
        if not path.exists():
            penalties = {"length_penalty": 1.0, **_NO_COVERAGE}
            lengths = {"max_length_ratio": 3.0, "max_length_extra": 10}
            return cls.model_validate({"beam_size": 1, "n_best": 1, **penalties, **lengths, "batch_sentences": 128})
        try:
            settings = read_json(path)
            return cls.model_validate({**_NO_COVERAGE, **settings} if isinstance(settings, dict) else settings)
        except ValidationError as error:
            raise UserError(f"{path} holds no decoding settings: {explain(error)}") from None

    def changed(self, beam_size: int | None, n_best: int | None) -> "Decoding":
        """With another beam or number of hypotheses; the number falls with the beam unless it is asked for."""
        beam_size = self.beam_size if beam_size is None else beam_size
        n_best = min(self.n_best, beam_size) if n_best is None else n_best
        if not 1 <= n_best <= beam_size:
            raise UserError(f"n_best may not exceed beam_size: {n_best} best translations of a beam of {beam_size}")
        return Decoding(**{**self.model_dump(), "beam_size": beam_size, "n_best": n_best})
