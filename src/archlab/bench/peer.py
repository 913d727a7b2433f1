"""The token arm twice: ours, and LLaMA from `transformers` with our weights.

Ours is the arm itself, run as a language model without image and query, so that what is measured is the code that
the comparison trains.

Shape legend: B samples, T predicted tokens; a batch holds T + 1 tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from archlab.config import TransformerConfig
from archlab.data.batch import Batch
from archlab.objectives.next_token import NextToken
from archlab.vl.arms import TokenArm
from archlab.vl.backbone import Backbone

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

# Our name within a block -> theirs. All other names are in `_OUTSIDE`.
_WITHIN_BLOCK = {
    "attention_norm": "input_layernorm",
    "attention.q_proj": "self_attn.q_proj",
    "attention.k_proj": "self_attn.k_proj",
    "attention.v_proj": "self_attn.v_proj",
    "attention.out_proj": "self_attn.o_proj",
    "feed_forward_norm": "post_attention_layernorm",
    "feed_forward.gate_proj": "mlp.gate_proj",
    "feed_forward.up_proj": "mlp.up_proj",
    "feed_forward.down_proj": "mlp.down_proj",
}
_OUTSIDE = {"token_embedding": "model.embed_tokens", "trunk.norm": "model.norm"}


@dataclass(frozen=True)
class Shape:
    """One benchmark: B samples of T predicted tokens over a vocabulary, through a stack of the given size and kind."""

    samples: int
    tokens: int
    vocabulary: int
    stack: TransformerConfig
    architecture: Literal["token-arm", "llama", "gpt2", "translator"] = "token-arm"

    def options(self) -> dict[str, Any]:
        """What the configurations of the registry's models share."""
        return {
            "vocab_size": self.vocabulary,
            "context": self.tokens,
            "width": self.stack.width,
            "depth": self.stack.depth,
            "heads": self.stack.heads,
            "feed_forward": self.stack.feed_forward,
        }

    def random_tokens(self, seed: int) -> Tensor:
        """A batch (B, T + 1)."""
        size = self.samples, self.tokens + 1
        return torch.randint(self.vocabulary, size, generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class Contender:
    """A model and the loss of its training step on a fixed batch."""

    model: nn.Module
    loss: Callable[[], Tensor]


def token_arm_contenders(shape: Shape, seed: int = 0) -> dict[str, Contender]:
    """Both models with equal weights and the same batch of random tokens.

    Both are causal, without padding, with tied embeddings and fused attention. `transformers` may skip the mask, which
    is its fastest way; ours reads masks as large as in the comparison, (B, 1, T, T), where every sample has its own.
    """
    from transformers.utils import logging

    logging.set_verbosity_error()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        ours = TokenArm(Backbone(shape.stack, 1, shape.vocabulary), causal=True)
        ours.backbone.token_embedding.scale = 1.0  # LLaMA does not scale what it embeds
        theirs = _llama(shape)
    tokens = shape.random_tokens(seed)
    copy_weights(ours, theirs)
    # Without image and query the projection of visual features has nothing to do: it is left out of the optimiser.
    ours.backbone.visual_projection.requires_grad_(False)
    batch, objective = _batch(tokens), NextToken()
    return {
        "archlab": Contender(ours.train(), lambda: objective(ours, batch).loss),
        "transformers": Contender(theirs.train(), lambda: labelled_loss(theirs, tokens)),
    }


def copy_weights(ours: TokenArm, theirs: LlamaForCausalLM) -> None:
    """Give `theirs` the weights of `ours`; every parameter of both takes part.

    Raises:
        RuntimeError: a name or a shape is left over on either side.
    """
    state = {}
    for name, weight in ours.backbone.state_dict().items():
        layer = name.removesuffix(".weight")
        if layer.startswith("trunk.blocks."):
            number, within = layer.removeprefix("trunk.blocks.").split(".", 1)
            state[f"model.layers.{number}.{_WITHIN_BLOCK[within]}.weight"] = weight
        elif not layer.startswith("visual_projection"):
            state[f"{_OUTSIDE[layer]}.weight"] = weight
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    theirs.load_state_dict(state, strict=True)


def _llama(shape: Shape) -> LlamaForCausalLM:
    from transformers import AutoModelForCausalLM, LlamaConfig

    stack = shape.stack
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=stack.width,
        intermediate_size=stack.feed_forward,
        num_hidden_layers=stack.depth,
        num_attention_heads=stack.heads,
        max_position_embeddings=shape.tokens,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
        use_cache=False,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
    )
    return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")


def labelled_loss(model: Any, tokens: Tensor) -> Tensor:
    """Loss of a causal language model of `transformers` on tokens (B, T + 1)."""
    # `shift_labels`: the labels are shifted already, so that no logits are computed that nobody scores.
    inputs, labels = tokens[:, :-1], tokens[:, 1:].contiguous()
    return model(input_ids=inputs, labels=labels, shift_labels=labels).loss


def _batch(tokens: Tensor) -> Batch:
    """Tokens (B, T + 1) as the answers to an empty query about no image."""
    samples = len(tokens)
    numbers = torch.arange(samples)
    return Batch(
        features=torch.zeros(samples, 0, 1),
        query=torch.zeros(samples, 0, dtype=torch.long),
        query_mask=torch.zeros(samples, 0, dtype=torch.bool),
        target=tokens,
        target_mask=torch.ones_like(tokens, dtype=torch.bool),
        meaning=numbers,
        text=numbers,
        ids=[str(number) for number in range(samples)],
    )
