"""Small models and sentences for the tests of the library."""

import torch
from torch import Tensor

from nmt.config import Model, Train
from nmt.model.seq2seq import Seq2Seq


def model_settings(
    cell: str = "gru",
    encoder_layers: int = 1,
    decoder_layers: int = 1,
    bidirectional: bool = True,
    readout: str = "deep",
    dropout: float = 0.0,
    layer_norm: bool = False,
    residual: bool = False,
    word_query: bool = False,
    lexical: bool = False,
    tie_embeddings: bool = False,
) -> Model:
    """A model section in which encoder outputs and decoder states have 8 units, so that every attention fits."""
    return Model.model_validate(
        {
            "cell": cell,
            "embedding_size": 6,
            "encoder": {
                "hidden_size": 4 if bidirectional else 8,
                "layers": encoder_layers,
                "bidirectional": bidirectional,
            },
            "decoder": {"hidden_size": 8, "layers": decoder_layers},
            "attention_size": 5,
            "readout": readout,
            "tie_output": True,
            "tie_embeddings": tie_embeddings,
            "layer_norm": layer_norm,
            "residual": residual,
            "word_query": word_query,
            "lexical": lexical,
            "dropout": {"word": dropout, "embedding": dropout, "recurrent": dropout, "output": dropout},
        }
    )


def learning_model(encoder_size: int) -> Model:
    """A model section that suffices to learn a task on strings of symbols."""
    return Model.model_validate(
        {
            "cell": "gru",
            "embedding_size": 32,
            "encoder": {"hidden_size": encoder_size, "layers": 1, "bidirectional": True},
            "decoder": {"hidden_size": 64, "layers": 1},
            "attention_size": 32,
            "readout": "deep",
            "tie_output": True,
            "tie_embeddings": False,
            "layer_norm": False,
            "residual": False,
            "word_query": False,
            "lexical": False,
            "dropout": {"word": 0.0, "embedding": 0.0, "recurrent": 0.0, "output": 0.0},
        }
    )


def learning_recipe(learning_rate: float) -> Train:
    """A train section for such a task: seconds of training."""
    return Train.model_validate(
        {
            "max_epochs": 10,
            "batch_tokens": 800,
            "devices": 1,
            "accumulate": 1,
            "cuda_graphs": False,
            "joining": {"share": 0.0, "up_to": 2},
            "optimizer": "adam",
            "learning_rate": learning_rate,
            "betas": [0.9, 0.98],
            "weight_decay": 0.0,
            "schedule": {"warmup_updates": 50, "decay": "linear", "final_share": 0.05},
            "clip_norm": 1.0,
            "label_smoothing": 0.0,
            "average_decay": 0.99,
            "patience": 8,
        }
    )


def tiny_model(attention: str, vocabulary: tuple[int, int] = (13, 11), seed: int = 1, **settings: object) -> Seq2Seq:
    """A randomly initialised model of a few hundred parameters."""
    model = Seq2Seq(model_settings(**settings), attention, *vocabulary)  # type: ignore[arg-type]
    model.initialize(seed)
    return model


def with_dropout(model: Seq2Seq, rate: float) -> Seq2Seq:
    """The same model, whose `masks` drop at this rate everywhere."""
    rates = dict.fromkeys(("word", "embedding", "recurrent", "output"), rate)
    model.settings = Model.model_validate({**model.settings.model_dump(), "dropout": rates})
    return model


def random_sentences(model: Seq2Seq, seed: int, side: str, batch: int = 4, longest: int = 6) -> tuple[Tensor, Tensor]:
    """Padded rows of random pieces, and their lengths; the first is the longest, the second of length 1."""
    generator = torch.Generator().manual_seed(seed)
    size = getattr(model, f"{side}_embedding").num_embeddings
    lengths = torch.randint(1, longest + 1, (batch,), generator=generator)
    lengths[0], lengths[1] = longest, 1
    rows = torch.randint(4, size, (batch, longest), generator=generator)
    return rows.masked_fill(torch.arange(longest) >= lengths[:, None], 0), lengths
