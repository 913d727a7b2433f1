"""An encoder-decoder of LSTMs with and without attention: what translation was before the Transformer.

Without attention one vector has to carry the whole sentence (Sutskever et al., arXiv 1409.3215); with it every step
looks at the encoder's states anew (Bahdanau et al., arXiv 1409.0473).

Shape legend: B samples, S source tokens, T target tokens, W width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from archlab.config import Section
from archlab.errors import UserError
from archlab.layers.cache import Cache
from archlab.layers.embeddings import output_logits
from archlab.rules import Count


@dataclass(frozen=True, kw_only=True)
class LSTMConfig(Section):
    """Shape of an LSTM encoder-decoder."""

    vocab_size: Count = 10000
    """Shared by source and target."""
    width: Count = 256
    depth: Count = 2
    """Layers of the encoder, and as many of the decoder."""
    attention: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % 2:
            raise UserError(f"width={self.width}: must be even, one half for each direction of the encoder")


@dataclass
class LSTMState(Cache):
    """What a decoder that has read some tokens goes on from: as a cache, but of a fixed size.

    Attributes:
        length: tokens read.
        hidden: state and cell of every layer, (depth, B, W) each; None before the first token.
    """

    length: int = 0
    hidden: tuple[Tensor, Tensor] | None = None

    def crop(self, length: int) -> None:
        """See `Cache`; only to nothing, or to all."""
        if length not in (0, self.length):
            raise UserError(
                f"length={length}: a recurrent state of {self.length} tokens cannot go back; read them anew"
            )
        if length == 0:
            self.length, self.hidden = 0, None

    def expand(self, copies: int) -> LSTMState:
        """See `Cache`."""
        if self.hidden is None:
            return LSTMState(self.length)
        states, cells = (part.repeat_interleave(copies, 1) for part in self.hidden)
        return LSTMState(self.length, (states, cells))

    def select(self, samples: Tensor) -> None:
        """See `Cache`."""
        if self.hidden is not None:
            states, cells = self.hidden
            self.hidden = states.index_select(1, samples), cells.index_select(1, samples)


class AdditiveAttention(nn.Module):
    """Weights softmax(v tanh(query + key)) over the memory (arXiv 1409.0473, appendix A.1.2).

    Args:
        width: W of queries and memory.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, width)
        self.score = nn.Linear(width, 1, bias=False)

    def forward(self, queries: Tensor, memory: Tensor, memory_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Queries (B, T, W) and memory (B, S, W) -> what is read (B, T, W), and the weights (B, T, S)."""
        pairs = self.q_proj(queries)[:, :, None] + self.k_proj(memory)[:, None]  # (B, T, S, W)
        scores = self.score(pairs.tanh()).squeeze(-1)  # (B, T, S)
        if memory_mask is not None:
            scores = scores.masked_fill(~memory_mask[:, None], torch.finfo(scores.dtype).min)
        weights = scores.softmax(-1)
        return weights @ memory, weights


class LSTMTranslator(nn.Module):
    """Source and target tokens to next-token logits, called as every encoder-decoder of the project.

    Differs from the papers: one table embeds source and target and is the output layer, as in the Transformer that it
    is compared with; both variants have the bidirectional encoder; the query of attention is the new state of the
    decoder, and what it reads enters the output but not the next state (as in arXiv 1508.04025, section 3), so that a
    whole sentence is read in one call.

    Padding stands at the end.

    Args:
        config: shape of the model.
    """

    def __init__(self, config: LSTMConfig) -> None:
        super().__init__()
        self.config = config
        width, depth = config.width, config.depth
        self.token_embedding = nn.Embedding(config.vocab_size, width)
        self.head: nn.Module | None = None  # the output layer is the token table
        self.dropout = nn.Dropout(0.0)  # set by `layers.dropout.set_dropout`
        self.encoder = nn.LSTM(width, width // 2, depth, batch_first=True, bidirectional=True)
        self.bridge = nn.Linear(width, 2 * depth * width)
        self.decoder = nn.LSTM(width, width, depth, batch_first=True)
        self.attention = AdditiveAttention(width) if config.attention else None
        self.output = nn.Linear(2 * width if config.attention else width, width)
        nn.init.normal_(self.token_embedding.weight, std=0.1)  # as the output layer it starts with small logits

    def new_cache(self) -> list[LSTMState]:
        """An empty state, in a list as the caches of other decoders."""
        return [LSTMState()]

    def encode(self, source: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """The memory (B, S, W) of source ids (B, S); both directions side by side, zero at padding."""
        x = self.dropout(self.token_embedding(source))  # (B, S, W)
        lengths = torch.full((len(source),), source.shape[1]) if mask is None else mask.sum(1).cpu()
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        memory, _ = pad_packed_sequence(self.encoder(packed)[0], batch_first=True, total_length=source.shape[1])
        return memory

    def decode(
        self,
        target: Tensor,
        memory: Tensor,
        *,
        mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        cache: Sequence[LSTMState] | None = None,
    ) -> Tensor:
        """Logits of the next token after each target token.

        Args:
            target: ids (B, T), those after the ones in the cache; padding at the end changes nothing before it.
            memory: from `encode`.
            mask: of the target; a state never looks ahead, so that it is not needed.
            memory_mask: the one that `encode` had.
            cache: from `new_cache`, brought forward by this call.

        Returns:
            (B, T, V).
        """
        hidden = cache[0].hidden if cache else None
        x = self.dropout(self.token_embedding(target))  # (B, T, W)
        states, hidden = self.decoder(x, hidden or self._start(memory, memory_mask))  # (B, T, W)
        if cache:
            cache[0].hidden, cache[0].length = hidden, cache[0].length + target.shape[1]
        if self.attention is not None:
            read, _ = self.attention(states, memory, memory_mask)
            states = torch.cat([states, read], -1)  # (B, T, 2W)
        return output_logits(self.dropout(self.output(states).tanh()), self.head, self.token_embedding.weight)

    def forward(
        self, source: Tensor, target: Tensor, *, source_mask: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """(B, S) and (B, T) -> (B, T, V); see `decode`."""
        return self.decode(target, self.encode(source, mask=source_mask), mask=mask, memory_mask=source_mask)

    def _start(self, memory: Tensor, memory_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """State and cell from where each direction of the encoder ended: its last and its first real token."""
        forward, backward = memory.chunk(2, -1)  # (B, S, W / 2) each
        last = memory.shape[1] - 1 if memory_mask is None else memory_mask.sum(1) - 1  # (B,)
        summary = torch.cat([forward[torch.arange(len(memory)), last], backward[:, 0]], -1)  # (B, W)
        start = self.bridge(summary).unflatten(-1, (2, self.config.depth, -1)).permute(1, 2, 0, 3)  # (2, depth, B, W)
        return start[0].tanh().contiguous(), start[1].contiguous()
