"""The classic teaching models, as baselines for speed; with the same weights they give the same loss as ours.

`Textbook`        attention: one `nn.GRU` call per target word. What makes it slow is what makes it easy to read, and
                  every textbook has it: the keys are projected anew at each step, autograd keeps every small result,
                  padding is scored.
`TextbookPlain`   no attention: `nn.GRU` runs over the whole target sentence in one call.

Equations and parameters are those of `nmt.model.seq2seq` with a GRU of one layer, deep readout and tied output.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from nmt.batching import Batch
from nmt.model.seq2seq import Seq2Seq
from nmt.subwords import PAD


class AdditiveAttention(nn.Module):
    """Scores of every source position, a softmax over the real ones, and the weighted sum (Bahdanau et al. 2015)."""

    def __init__(self, query_size: int, key_size: int, size: int) -> None:
        super().__init__()
        self.query = nn.Linear(query_size, size, bias=False)
        self.key = nn.Linear(key_size, size)
        self.score = nn.Linear(size, 1, bias=False)

    def forward(self, query_BH: Tensor, outputs_BSC: Tensor, padding_BS: Tensor) -> Tensor:
        """The context [B, C]."""
        features = torch.tanh(self.query(query_BH)[:, None] + self.key(outputs_BSC))
        scores_BS = self.score(features).squeeze(-1).masked_fill(padding_BS, -torch.inf)
        weights_BS = torch.softmax(scores_BS, dim=-1)
        return torch.bmm(weights_BS[:, None], outputs_BSC).squeeze(1)


class _Textbook(nn.Module):
    """What both have: an encoder, a decoder and an output layer, with the weights of a `Seq2Seq`."""

    def __init__(self, model: Seq2Seq, dropout: float) -> None:
        super().__init__()
        settings = model.settings
        size, embedding = settings.decoder.hidden_size, settings.embedding_size
        context = model.encoder.output_size if model.has_attention else size
        self.source_embedding = nn.Embedding(model.source_embedding.num_embeddings, embedding, padding_idx=PAD)
        self.target_embedding = nn.Embedding(model.target_embedding.num_embeddings, embedding, padding_idx=PAD)
        self.encoder = nn.GRU(embedding, settings.encoder.hidden_size, bidirectional=True, batch_first=True)
        self.bridge = nn.Linear(model.encoder.output_size, size)
        self.decoder = nn.GRU(embedding + context, size, batch_first=True)
        self.readout = nn.Linear(size + context + embedding, embedding)
        self.output = nn.Linear(embedding, model.target_embedding.num_embeddings)
        self.output.weight = self.target_embedding.weight
        self.dropout = nn.Dropout(dropout)
        self._copy(model)

    def read(self, source_BS: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Encoder outputs [B, S, C], where they are padding [B, S], and the decoder's first state [1, B, H]."""
        embedded = self.dropout(self.source_embedding(source_BS))
        packed = pack_padded_sequence(embedded, lengths_B, batch_first=True, enforce_sorted=False)
        packed_outputs, ends = self.encoder(packed)
        outputs_BSC = pad_packed_sequence(packed_outputs, batch_first=True)[0]
        return outputs_BSC, source_BS == PAD, torch.tanh(self.bridge(torch.cat([ends[0], ends[1]], dim=-1)))[None]

    @torch.no_grad()
    def _copy(self, model: Seq2Seq) -> None:
        """Take the weights over: the direction, the first dimension there, is part of a name in `nn.GRU`."""
        reader, writer = model.encoder.layers[0], model.decoder.recurrent[0]
        places = [("", self.encoder, reader, 0), ("_reverse", self.encoder, reader, 1), ("", self.decoder, writer, 0)]
        for suffix, gru, layer, direction in places:
            for ours, theirs in (("input", "ih"), ("hidden", "hh")):
                getattr(gru, f"weight_{theirs}_l0{suffix}").copy_(getattr(layer, f"{ours}_weight")[direction])
                getattr(gru, f"bias_{theirs}_l0{suffix}").copy_(getattr(layer, f"{ours}_bias")[direction])
        for name in ("source_embedding", "target_embedding", "bridge", "output"):
            getattr(self, name).load_state_dict(getattr(model, name).state_dict())
        self.readout.load_state_dict(model.decoder.readout.state_dict())


class TextbookPlain(_Textbook):
    """The decoder reads the bridged summary beside each word."""

    def forward(self, batch: Batch) -> Tensor:
        """Logits [B, T, V] at every target position, padding included."""
        _, _, state = self.read(batch.source_BS, batch.source_lengths_B)
        words_BTE = self.dropout(self.target_embedding(batch.inputs_BT))
        contexts_BTH = state.transpose(0, 1).expand(-1, words_BTE.shape[1], -1)
        hidden_BTH, _ = self.decoder(torch.cat([words_BTE, contexts_BTH], dim=-1), state)
        features = torch.cat([hidden_BTH, contexts_BTH, words_BTE], dim=-1)
        return self.output(self.dropout(torch.tanh(self.readout(features))))


class Textbook(_Textbook):
    """The decoder attends, word by word."""

    def __init__(self, model: Seq2Seq, dropout: float) -> None:
        super().__init__(model, dropout)
        ours, settings = model.decoder.attention, model.settings
        self.attention = AdditiveAttention(
            settings.decoder.hidden_size, model.encoder.output_size, settings.attention_size
        )
        self.attention.query.load_state_dict(ours.query.state_dict())
        self.attention.key.load_state_dict(ours.key.state_dict())
        with torch.no_grad():
            self.attention.score.weight.copy_(ours.weight[None])

    def forward(self, batch: Batch) -> Tensor:
        """Logits [B, T, V] at every target position, padding included."""
        outputs_BSC, padding_BS, state = self.read(batch.source_BS, batch.source_lengths_B)
        columns = []
        for word_BE in self.dropout(self.target_embedding(batch.inputs_BT)).unbind(1):
            logits_BV, state = self.write(word_BE, state, outputs_BSC, padding_BS)
            columns.append(logits_BV)
        return torch.stack(columns, dim=1)

    def write(self, word_BE: Tensor, state: Tensor, outputs_BSC: Tensor, padding_BS: Tensor) -> tuple[Tensor, Tensor]:
        """One step from the previous word's embedding: logits [B, V] and the next state."""
        context_BC = self.attention(state[0], outputs_BSC, padding_BS)
        hidden, state = self.decoder(torch.cat([word_BE, context_BC], dim=-1)[:, None], state)
        features = torch.cat([hidden.squeeze(1), context_BC, word_BE], dim=-1)
        return self.output(self.dropout(torch.tanh(self.readout(features)))), state
