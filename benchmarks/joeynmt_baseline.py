"""JoeyNMT 2.3's recurrent model in the bench shape, on our batches: bucketed, as JoeyNMT's own loader does not.

JoeyNMT pins packages that do not live beside MLflow's. For this benchmark an environment of its own is enough that has
our requirements and, on top, without their needs,

    pip install --no-deps joeynmt==2.3.0 subword-nmt==0.3.8 sacremoses==0.1.1

Its output layer reads the 512 units of the attention's output, ours the 256 of the readout; it is left as it is.
"""

from joeynmt.model import Model, build_model
from joeynmt.vocabulary import Vocabulary
from torch import Tensor

from nmt.batching import Batch
from nmt.subwords import BOS, EOS, PAD, UNK


def make_model(vocabulary: int, dropout: float, smoothing: float) -> Model:
    """A bidirectional GRU of 256, a decoder of 512 with additive attention, embeddings of 256."""
    words = ["<pad>", "<unk>", "<s>", "</s>", *(f"w{i}" for i in range(vocabulary - 4))]
    embeddings = {"embedding_dim": 256, "dropout": dropout}
    recurrent = {"type": "recurrent", "rnn_type": "gru", "num_layers": 1, "dropout": dropout}
    model = build_model(
        {
            "initializer": "xavier_uniform",
            "encoder": recurrent | {"embeddings": embeddings, "hidden_size": 256, "bidirectional": True},
            "decoder": recurrent
            | {"embeddings": embeddings, "hidden_size": 512, "hidden_dropout": dropout, "attention": "bahdanau"}
            | {"init_hidden": "bridge", "input_feeding": True},
        },
        *(_vocabulary(words) for _ in range(2)),
    )
    model.loss_function = ("crossentropy", smoothing)
    return model.train()


def loss(model: Model, batch: Batch) -> Tensor:
    """The label-smoothed loss, summed over the real target tokens."""
    order = batch.source_lengths_B.argsort(descending=True)  # its encoder packs, longest first
    source_BS, outputs_BT = batch.source_BS[order], batch.outputs_BT[order]
    summed: Tensor = model(
        return_type="loss",
        src=source_BS,
        src_length=batch.source_lengths_B[order],
        src_mask=(source_BS != PAD)[:, None],
        trg_input=batch.inputs_BT[order],
        trg=outputs_BT,
        trg_mask=(outputs_BT != PAD)[:, None],
    )[0]
    return summed.sum()


def _vocabulary(words: list[str]) -> Vocabulary:
    """JoeyNMT puts its special tokens first in an order of its own: give it ours."""
    vocabulary = Vocabulary.__new__(Vocabulary)
    vocabulary.specials, vocabulary.lang_tags = [], []
    vocabulary._itos, vocabulary._stoi = list(words), {word: i for i, word in enumerate(words)}
    vocabulary.pad_index, vocabulary.bos_index, vocabulary.eos_index = PAD, BOS, EOS
    vocabulary.unk_index, vocabulary.sep_index = UNK, None
    return vocabulary
