"""The selective state space of Mamba (arXiv 2312.00752, section 3): what attention is to a Transformer.

Glossary, paper -> here: A -> -exp(`log_decay`), Delta -> `step`, B -> `write`, C -> `read`, D -> `skip`, h -> state.

Shape legend: B samples, T tokens, W width, E inner width, N state size of a feature, R rank of the step, K taps.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archlab.errors import UserError
from archlab.layers.attention import Implementation, Switchable
from archlab.layers.cache import Cache


def recurrent_scan(decay: Tensor, drive: Tensor, start: Tensor) -> Tensor:
    """state[t] = decay[t] * state[t - 1] + drive[t], one token after the other (equation 2a).

    Args:
        decay, drive: (B, T, E, N).
        start: state before the first token, (B, E, N).

    Returns:
        states (B, T, E, N).
    """
    state, states = start, []
    for factor, added in zip(decay.unbind(1), drive.unbind(1), strict=True):
        state = factor * state + added
        states.append(state)
    return torch.stack(states, 1)


def parallel_scan(decay: Tensor, drive: Tensor, start: Tensor) -> Tensor:
    """`recurrent_scan` in log2(T) steps over all tokens at once (section 3.3.2; Hillis and Steele, 1986).

    Two steps of the recurrence make one: (a, b) then (c, d) is (a c, c b + d). After round i, every token has taken in
    the 2^i tokens up to itself. Differs from the paper's kernel: memory grows by states (B, T, E, N) with every round.
    """
    drive = torch.cat([drive[:, :1] + decay[:, :1] * start[:, None], drive[:, 1:]], 1)
    reach = 1
    while reach < drive.shape[1]:
        drive = torch.cat([drive[:, :reach], drive[:, reach:] + decay[:, reach:] * drive[:, :-reach]], 1)
        decay = torch.cat([decay[:, :reach], decay[:, reach:] * decay[:, :-reach]], 1)
        reach *= 2
    return drive


class MambaState(Cache):
    """What a layer keeps of all tokens seen, however many: its state and the last inputs of its convolution.

    Differentiable.
    """

    def __init__(self) -> None:
        self._length = 0
        self._kept: tuple[Tensor, Tensor] | None = None

    @property
    def length(self) -> int:
        """See `Cache`."""
        return self._length

    def read(self) -> tuple[Tensor, Tensor] | None:
        """Inputs (B, K - 1, E) and state (B, E, N); None before the first token."""
        return self._kept

    def write(self, inputs: Tensor, state: Tensor, new: int) -> None:
        """Replace both after `new` more tokens."""
        # Copies: views would keep the memory of all tokens of the call.
        self._kept = inputs.clone(), state.clone()
        self._length += new

    def crop(self, length: int) -> None:
        """See `Cache`; only to nothing, or to all."""
        assert 0 <= length <= self._length, f"cannot crop {self._length} tokens to {length}"
        if length not in (0, self._length):
            raise UserError(
                f"length={length}: a recurrent state of {self._length} tokens cannot go back; read them anew"
            )
        if length == 0:
            self._length, self._kept = 0, None

    def select(self, samples: Tensor) -> None:
        """See `Cache`."""
        if self._kept is not None:
            inputs, state = self._kept
            self._kept = inputs.index_select(0, samples), state.index_select(0, samples)

    def expand(self, copies: int) -> MambaState:
        """See `Cache`."""
        expanded = MambaState()
        expanded._length = self._length
        if self._kept is not None:
            inputs, state = self._kept
            expanded._kept = inputs.repeat_interleave(copies, 0), state.repeat_interleave(copies, 0)
        return expanded


class MambaMixer(Switchable):
    """Convolution, selective state space and gate (section 3.4, figure 3).

    Step, write and read vectors depend on the token (algorithm 2). The state is discretised as in the released code:
    exp(Delta A) for the decay and, simpler than the paper's equation 4, Delta B for what is written.

    Padding on the left changes nothing: its inputs are zero, as before the first token of any sequence, and its step
    is zero, at which a state stays as it is.

    Args:
        width: W.
        inner: E.
        state_size: N.
        step_rank: R.
        kernel: K.
        implementation: "readable" scans token by token, "fused" all tokens at once.
    """

    def __init__(
        self,
        width: int,
        inner: int,
        *,
        state_size: int,
        step_rank: int,
        kernel: int,
        implementation: Implementation = "fused",
    ) -> None:
        super().__init__()
        self.implementation = implementation
        self.sizes = step_rank, state_size, state_size
        self.in_proj = nn.Linear(width, 2 * inner, bias=False)
        self.convolution = nn.Conv1d(inner, inner, kernel, groups=inner)
        self.selection_proj = nn.Linear(inner, sum(self.sizes), bias=False)
        self.step_proj = nn.Linear(step_rank, inner)
        self.log_decay = nn.Parameter(torch.empty(inner, state_size))
        self.skip = nn.Parameter(torch.empty(inner))
        self.out_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor, *, real: Tensor | None = None, cache: MambaState | None = None) -> Tensor:
        """Mix tokens with those before them.

        Args:
            x: (B, T, W).
            real: True at tokens that are no padding, (B, T); None: all are real. Padding lies on the left.
            cache: of earlier tokens, extended by this call.

        Returns:
            (B, T, W).
        """
        inputs, gate = self.in_proj(x).chunk(2, -1)  # (B, T, E)
        if real is not None:
            inputs = inputs.masked_fill(~real[:, :, None], 0)
        kept = None if cache is None else cache.read()
        earlier, start = self._beginning(inputs) if kept is None else kept
        inputs = torch.cat([earlier, inputs], 1)  # (B, K - 1 + T, E)
        u = F.silu(self.convolution(inputs.transpose(1, 2)).transpose(1, 2))  # (B, T, E)

        step, write, read = self.selection_proj(u).split(self.sizes, -1)  # (B, T, R), (B, T, N), (B, T, N)
        step = F.softplus(self.step_proj(step).to(start.dtype))  # (B, T, E)
        if real is not None:
            step = step.masked_fill(~real[:, :, None], 0)
        decay = (step[..., None] * -self.log_decay.to(start.dtype).exp()).exp()  # (B, T, E, N)
        drive = (step * u)[..., None] * write[:, :, None]  # (B, T, E, N)
        states = (parallel_scan if self.implementation == "fused" else recurrent_scan)(decay, drive, start)
        if cache is not None:
            cache.write(inputs[:, x.shape[1] :], states[:, -1], x.shape[1])
        y = (states @ read[..., None].to(start.dtype))[..., 0] + self.skip * u  # (B, T, E)
        return self.out_proj((y * F.silu(gate)).to(x.dtype))

    def _beginning(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs (B, K - 1, E) and state (B, E, N) before the first token; states are float32 or wider."""
        samples, _, inner = inputs.shape
        wide = torch.promote_types(inputs.dtype, torch.float32)
        earlier = inputs.new_zeros(samples, self.convolution.kernel_size[0] - 1, inner)
        return earlier, inputs.new_zeros(samples, inner, self.sizes[1], dtype=wide)
