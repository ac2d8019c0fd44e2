"""The translation model: encoder, bridge, decoder, output layer."""

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from nmt.batching import Batch
from nmt.config import Model
from nmt.errors import UserError
from nmt.model.attention import AdditiveAttention, Attention, DotAttention, GeneralAttention, NoAttention
from nmt.model.decoder import Decoder, DecoderMasks, DecoderState, Memory
from nmt.model.encoder import Encoder
from nmt.model.output import smoothed_cross_entropy
from nmt.model.products import linear
from nmt.randomness import WideMask, dropout_masks, generator
from nmt.subwords import PAD

if TYPE_CHECKING:
    from nmt.places import Places


class Loss(NamedTuple):
    """Sums over the real target tokens of a batch, in nats."""

    smoothed: Tensor
    """Label-smoothed: what training minimises."""
    plain: Tensor
    tokens: int


@dataclass(frozen=True)
class Masks:
    """All dropout masks of one batch; each [B, ...], the same at every time step."""

    source_words: WideMask | None
    """A column for each piece of the vocabulary: what is dropped is dropped wherever it stands."""
    target_words: WideMask | None
    source_embedding: Tensor | None
    target_embedding: Tensor | None
    encoder_recurrent: list[Tensor | None]
    encoder_output: Tensor | None
    decoder: DecoderMasks
    readout: Tensor | None


class Seq2Seq(nn.Module):
    """p(target | source), with or without attention."""

    def __init__(self, settings: Model, attention: str, source_size: int, target_size: int) -> None:
        super().__init__()
        self.settings = settings
        self.attention_kind = attention
        self.product_dtype = torch.float32
        """The type of matrix products' operands; training may set bfloat16, decoding stays with float32."""
        cell, embedding_size, hidden_size = settings.cell, settings.embedding_size, settings.decoder.hidden_size
        self.source_embedding = nn.Embedding(source_size, embedding_size, padding_idx=PAD)
        self.target_embedding = nn.Embedding(target_size, embedding_size, padding_idx=PAD)
        if settings.tie_embeddings:
            if source_size != target_size:
                raise UserError(
                    f"model.tie_embeddings: {source_size} source and {target_size} target pieces cannot be the same; "
                    "train on text that was cut by one joint model"
                )
            self.target_embedding.weight = self.source_embedding.weight
        encoder = settings.encoder
        self.encoder = Encoder(
            cell, embedding_size, encoder.hidden_size, encoder.layers, encoder.bidirectional, settings.layer_norm,
            settings.residual,
        )  # fmt: skip
        states = settings.decoder.layers * (2 if cell == "lstm" else 1)
        self.bridge = nn.Linear(self.encoder.output_size, states * hidden_size)
        word_size = embedding_size if settings.word_query else 0
        kind = _attention(attention, hidden_size, word_size, self.encoder.output_size, settings.attention_size)
        self.lexical = settings.lexical and self.has_attention
        context_size = self.encoder.output_size if self.has_attention else hidden_size
        context_size += embedding_size if self.lexical else 0
        self.decoder = Decoder(
            cell, embedding_size, hidden_size, settings.decoder.layers, context_size, kind, settings.readout,
            settings.layer_norm, settings.residual, settings.word_query, self.lexical,
        )  # fmt: skip
        self.output = nn.Linear(embedding_size, target_size)
        if settings.tie_output:
            self.output.weight = self.target_embedding.weight  # Press & Wolf 2017

    @property
    def has_attention(self) -> bool:
        """Whether `step` and `force` return weights."""
        return self.attention_kind != "none"

    @property
    def device(self) -> torch.device:
        """Where the parameters lie."""
        return self.bridge.weight.device

    def initialize(self, seed: int) -> None:
        """Set every parameter from (seed, its name): what two variants share, they start with alike."""
        for name, parameter in self.named_parameters():
            random = torch.from_numpy(generator(seed, zlib.crc32(name.encode())).standard_normal(parameter.shape))
            with torch.no_grad():
                parameter.copy_(_initial(name, random))

    def encode(self, source_BS: Tensor, lengths_B: Tensor, masks: Masks | None = None) -> Memory:
        """Read source sentences (pieces + eos, padded with PAD) [B, S] of these lengths [B]."""
        embedded_SBE = _embed(self.source_embedding, source_BS, masks.source_words if masks else None)
        return self.read(embedded_SBE, lengths_B, masks)

    def read(self, embedded_SBE: Tensor, lengths_B: Tensor, masks: Masks | None = None) -> Memory:
        """Read source sentences whose pieces are embedded already."""
        embedded_SBE = _drop(embedded_SBE, masks.source_embedding if masks else None)
        recurrent_masks = masks.encoder_recurrent if masks else [None] * len(self.encoder.layers)
        output_mask_BC = masks.encoder_output if masks else None
        outputs_SBC, summary_BC = self.encoder(
            embedded_SBE, lengths_B, recurrent_masks, output_mask_BC, self.product_dtype
        )
        summary_BC = _drop(summary_BC, output_mask_BC)
        bridged = torch.tanh(linear(summary_BC, self.bridge.weight, self.bridge.bias, self.product_dtype))
        layers, hidden_size = self.settings.decoder.layers, self.settings.decoder.hidden_size
        parts = bridged.view(len(bridged), -1, layers, hidden_size).permute(1, 2, 0, 3)
        start = DecoderState(tuple(parts.unbind(0)))
        if self.has_attention:
            values_BSC = _drop(outputs_SBC, output_mask_BC).transpose(0, 1).contiguous()
            padding_BS = torch.arange(len(embedded_SBE), device=lengths_B.device) >= lengths_B[:, None]
        else:
            values_BSC = start.tensors[0][-1][:, None]
            padding_BS = torch.zeros(len(lengths_B), 1, dtype=torch.bool, device=lengths_B.device)
        keys_BSA = self.decoder.attention.project_keys(values_BSC, self.product_dtype)
        if self.lexical:
            values_BSC = torch.cat([values_BSC, embedded_SBE.transpose(0, 1)], dim=-1)
        return Memory(values_BSC, keys_BSA, padding_BS, start)

    def start(self, memory: Memory) -> DecoderState:
        """The decoder's state before the first word: the bridge's."""
        return memory.start

    def step(
        self, memory: Memory, state: DecoderState, previous_R: Tensor, places: "Places | None" = None
    ) -> tuple[Tensor, DecoderState, Tensor | None]:
        """One step of prediction: logits [R, V], the next state, the attention weights [R, S].

        A row for each sentence, or for what is in these `places` of the sentences. It is the reference for
        `nmt.prediction`, which does the same faster.
        """
        if places is not None and not places.one_each:
            memory = memory.select(places.sentence_R(previous_R.device))
        embedded_RE = self.target_embedding(previous_R)
        hidden_RH, context_RC, state, weights_RS = self.decoder.step(
            memory, state, embedded_RE, None, self.product_dtype
        )
        readout_RE = self.decoder.read_out(hidden_RH, context_RC, embedded_RE, self.product_dtype)
        return self._logits(readout_RE), state, weights_RS

    def force(self, memory: Memory, inputs_BT: Tensor) -> tuple[Tensor, Tensor | None]:
        """Teacher-forced prediction over inputs (bos + pieces) [B, T]: logits [B, T, V], weights [B, T, S]."""
        hidden, contexts, embedded_TBE, weights_TBS = self._decode(memory, inputs_BT)
        readout_TBE = self.decoder.read_out(hidden, contexts, embedded_TBE, self.product_dtype)
        return self._logits(readout_TBE).transpose(0, 1), None if weights_TBS is None else weights_TBS.transpose(0, 1)

    def force_last(self, memory: Memory, inputs_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """The logits [B, V] of `force` at the last of each row's inputs."""
        rows = torch.arange(len(lengths_B), device=lengths_B.device)
        hidden_BH, context_BC, embedded_BE = (
            tensor[lengths_B - 1, rows] for tensor in self._decode(memory, inputs_BT)[:3]
        )
        return self._logits(self.decoder.read_out(hidden_BH, context_BC, embedded_BE, self.product_dtype))

    def _logits(self, readout: Tensor) -> Tensor:
        """Of every word [..., V], for a readout [..., E]; in the readout's precision."""
        return linear(readout, self.output.weight, self.output.bias, readout.dtype)

    def _decode(self, memory: Memory, inputs_BT: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Hidden states [T, B, H], contexts [T, B, C], embedded inputs [T, B, E] and weights, without dropout."""
        embedded_TBE = self.target_embedding(inputs_BT.t())
        masks = DecoderMasks.none(self.settings.decoder.layers)
        hidden, contexts, weights_TBS = self.decoder.decode(memory, embedded_TBE, masks, self.product_dtype)
        return hidden, contexts, embedded_TBE, weights_TBS

    def loss(self, batch: Batch, smoothing: float, masks: Masks | None = None) -> Loss:
        """The teacher-forced loss of a batch; padding is neither scored nor counted."""
        dtype = self.product_dtype
        memory = self.encode(batch.source_BS, batch.source_lengths_B, masks)
        embedded_TBE = _embed(self.target_embedding, batch.inputs_BT, masks.target_words if masks else None)
        embedded_TBE = _drop(embedded_TBE, masks.target_embedding if masks else None)
        decoder_masks = masks.decoder if masks else DecoderMasks.none(self.settings.decoder.layers)
        hidden_TBH, contexts_TBC, _ = self.decoder.decode(memory, embedded_TBE, decoder_masks, dtype)
        hidden_TBH = _drop(hidden_TBH, decoder_masks.output)
        real_N = (batch.outputs_BT.t() != PAD).flatten()
        places_N = torch.arange(len(real_N), device=real_N.device)
        all_NX = [each.flatten(0, 1) for each in (hidden_TBH, contexts_TBC, embedded_TBE, batch.outputs_BT.t())]
        if not batch.fixed and batch.target_tokens < len(real_N):
            places_N = places_N[real_N]
            all_NX = [each_NX.index_select(0, places_N) for each_NX in all_NX]
        hidden_NH, contexts_NC, embedded_NE, targets_N = all_NX
        readout_NE = self.decoder.read_out(hidden_NH, contexts_NC, embedded_NE, dtype)
        if masks and masks.readout is not None:
            readout_NE = readout_NE * masks.readout[places_N % len(batch.rows)]
        smoothed, plain = smoothed_cross_entropy(
            readout_NE,
            self.output.weight,
            self.output.bias,
            targets_N,
            smoothing,
            dtype,
            real_N if batch.fixed else None,
        )
        return Loss(smoothed, plain, batch.target_tokens)

    def masks(self, rows_B: Tensor, seed: int, update: int | Tensor) -> Masks:
        """The dropout masks of these examples at this update."""
        settings, rates = self.settings, self.settings.dropout
        embedding_size, hidden_size = settings.embedding_size, settings.decoder.hidden_size
        encoded_size = self.encoder.output_size
        sites = [
            (rates.embedding, embedding_size),
            (rates.embedding, embedding_size),
            (rates.output, encoded_size),
            (rates.output, embedding_size),
            *[(rates.recurrent, encoded_size)] * settings.encoder.layers,
            *[(rates.recurrent, hidden_size)] * settings.decoder.layers,
            (rates.output, hidden_size),
        ]
        drawn = dropout_masks(sites, rows_B, seed, update)
        source, target, encoder_output, readout, *recurrent, output = drawn
        return Masks(
            source_embedding=source,
            target_embedding=target,
            encoder_output=encoder_output,
            readout=readout,
            encoder_recurrent=recurrent[: settings.encoder.layers],
            decoder=DecoderMasks(recurrent[settings.encoder.layers :], output),
            source_words=WideMask.keyed(rates.word, rows_B, seed, update, len(sites)),
            target_words=WideMask.keyed(rates.word, rows_B, seed, update, len(sites) + 1),
        )

    def parameters_by_part(self) -> dict[str, int]:
        """How many parameters each part has; tied ones count once, where they are an embedding."""
        counts: dict[str, int] = {}
        for name, parameter in self.named_parameters():
            part = "attention" if name.startswith("decoder.attention") else name.partition(".")[0]
            counts[part] = counts.get(part, 0) + parameter.numel()
        return counts

    def training_flops(self, source_tokens: int, target_tokens: int, pairs: int) -> int:
        """Floating-point operations of training on so many tokens, by formula.

        Six for each weight and each token it meets (forward 2, backward 4; Kaplan et al. 2020, section 2.1), embeddings
        looked up for nothing, plus six for each unit of key and value at each of the `pairs` of a source and a target
        position of one example. What is done once per example (the bridge, the constant context of a model without
        attention) is left out.
        """
        sizes = self.parameters_by_part()
        named = self.named_parameters()
        keys = sum(parameter.numel() for name, parameter in named if name.startswith("decoder.attention.key"))
        per_source = sizes["encoder"] + keys
        per_target = sizes["decoder"] + sizes.get("attention", 0) - keys + self.output.weight.numel()
        if not self.has_attention:
            first = self.decoder.recurrent[0].input_weight
            per_target -= first[..., self.settings.embedding_size :].numel()
        per_pair = self.decoder.attention.key_size + self.decoder.context_size if self.has_attention else 0
        return 6 * (source_tokens * per_source + target_tokens * per_target + pairs * per_pair)


def _attention(kind: str, state_size: int, word_size: int, value_size: int, attention_size: int) -> Attention:
    query_size = state_size + word_size
    if kind == "none":
        return NoAttention()
    if kind == "additive":
        return AdditiveAttention(query_size, value_size, attention_size)
    if kind == "general":
        return GeneralAttention(query_size, value_size)
    if word_size:
        raise UserError(
            "attention 'dot' compares decoder states with encoder outputs, which have no place for a word: "
            "set model.word_query to false, or choose attention 'general'"
        )
    if query_size != value_size:
        raise UserError(
            f"attention 'dot' compares decoder states of {query_size} units with encoder outputs of {value_size}: set "
            "model.decoder.hidden_size to the encoder's size (both directions together), or choose attention 'general'"
        )
    return DotAttention(query_size)


def _initial(name: str, random: Tensor) -> Tensor:
    """Initial values made of standard normal ones of the same shape."""
    if name.endswith(("bias", "shift")):
        return torch.zeros_like(random)
    if name.endswith("gain"):
        return torch.ones_like(random)
    if "embedding" in name:
        values: Tensor = random * random.shape[-1] ** -0.5
        values[PAD] = 0.0
        return values
    if name.endswith("hidden_weight"):
        # Orthogonal gate by gate (Saxe et al. 2014): a recurrent product neither shrinks nor blows up its state.
        size = random.shape[-1]
        squares: Tensor
        upper: Tensor
        squares, upper = torch.linalg.qr(random.view(len(random), -1, size, size))
        return (squares * upper.diagonal(dim1=-2, dim2=-1).sign()[..., None, :]).flatten(1, 2)
    spread: float = random.shape[0] ** -0.5
    if random.ndim > 1:
        spread = (2.0 / (random.shape[-1] + random.shape[-2])) ** 0.5  # Glorot & Bengio 2010
    return random * spread


def _embed(embedding: nn.Module, pieces_BT: Tensor, words: WideMask | None) -> Tensor:
    """The embeddings [T, B, E] of these pieces, less those whose type is dropped (Gal & Ghahramani 2016, sec. 4.2)."""
    embedded_TBE: Tensor = embedding(pieces_BT.t())
    return embedded_TBE if words is None else embedded_TBE * words.at(pieces_BT).t()[..., None]


def _drop(tensor: Tensor, mask: Tensor | None) -> Tensor:
    return tensor if mask is None else tensor * mask
