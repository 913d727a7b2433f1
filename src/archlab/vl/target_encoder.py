"""Y-encoder: target text to its embedding (VL-JEPA, section 3.1), small and trained from scratch, or pretrained."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from archlab.config import EmbeddingArmConfig, TransformerConfig
from archlab.data.tokenizer import TextTokenizer
from archlab.errors import UserError
from archlab.layers import masks
from archlab.layers.block import TransformerStack
from archlab.layers.embeddings import TokenEmbedding
from archlab.layers.pooling import masked_mean
from archlab.vl.backbone import positions_of


class TargetEncoder(nn.Module):
    """Bidirectional Transformer over the target's tokens, mean over real tokens, linear head.

    Differs from the paper: small and trained from scratch, like every other part, instead of EmbeddingGemma-300M.

    Args:
        config: size of the Transformer.
        vocab_size: entries of the token embedding.
        embedding: E, dimensions of the shared space.
    """

    def __init__(self, config: TransformerConfig, vocab_size: int, embedding: int) -> None:
        super().__init__()
        self.token_embedding = TokenEmbedding(vocab_size, config.width)
        self.trunk = TransformerStack(config)
        self.head = nn.Linear(config.width, embedding)

    def forward(self, target: Tensor, target_mask: Tensor) -> Tensor:
        """Embeddings (B, E), not normalised, of token ids (B, L) with mask (B, L), True at real tokens."""
        states = self.trunk(
            self.token_embedding(target), mask=masks.padding(target_mask), positions=positions_of(target_mask)
        )
        return self.head(masked_mean(states, target_mask))


class PretrainedTargetEncoder(nn.Module):
    """An encoder of text that others trained, with its own tokenizer and pooling, and a new linear head.

    It is given the tokens that every other part reads, and spells them out to read the same text in its own. The head
    begins as an isometry, so that at the start the embeddings are as alike as the checkpoint's own vectors are.

    Checkpoints hold the digest of its files, which is checked when they are loaded, and its weights if they are
    trained; frozen ones are read from where they came from.

    Args:
        trunk: an `interop.sentence.SentenceEncoder`.
        embedding: E, dimensions of the shared space.
        tokenizer: of the tokens that `forward` is given; None: they are the encoder's own.
        digest: of its files, SHA-256.
        frozen: whether its weights stay as they are; those of the head are another matter.
    """

    reference: Tensor

    def __init__(
        self, trunk: Any, embedding: int, tokenizer: TextTokenizer | None, digest: str, *, frozen: bool
    ) -> None:
        super().__init__()
        self.trunk = trunk.requires_grad_(not frozen)
        self.tokenizer = tokenizer
        self.head = nn.Linear(trunk.width, embedding)
        nn.init.orthogonal_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.register_buffer("reference", torch.tensor(list(bytes.fromhex(digest)), dtype=torch.uint8))
        self.register_load_state_dict_pre_hook(_check_reference)
        if frozen:
            self.register_state_dict_post_hook(_leave_out)
            self.register_load_state_dict_pre_hook(_put_back)

    def forward(self, target: Tensor, target_mask: Tensor) -> Tensor:
        """Embeddings (B, E), not normalised, of token ids (B, L) with mask (B, L), True at real tokens."""
        return self.head(self.trunk(*self.spelled(target, target_mask)))

    def spelled(self, target: Tensor, target_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Ids (B, T) and mask (B, T) of the same texts in the encoder's own tokens."""
        if self.tokenizer is None:
            return target, target_mask
        texts = [self.tokenizer.decode(row[real].tolist()) for row, real in zip(target, target_mask, strict=True)]
        ids, mask = self.trunk.tokenize(texts)
        return ids.to(target.device), mask.to(target.device)


def build_target_encoder(
    config: EmbeddingArmConfig, vocab_size: int, tokenizer: TextTokenizer | None
) -> TargetEncoder | PretrainedTargetEncoder:
    """The target encoder of a run.

    A pretrained one is opened with its weights; on the meta device only its shape is, which needs no files of a
    published size. Its head learns, unless a distance to the target is all that trains it: then it would collapse.

    Args:
        tokenizer: of the run; see `PretrainedTargetEncoder`.

    Raises:
        UserError: the pretrained one cannot be opened.
    """
    if not config.target_weights:
        return TargetEncoder(config.target, vocab_size, config.embedding)
    trunk, digest = _opened(config.target_weights)
    encoder = PretrainedTargetEncoder(
        trunk, config.embedding, tokenizer, digest, frozen=config.target_learning_rate_scale == 0
    )
    encoder.head.requires_grad_(config.trains_target_head)
    return encoder


def _opened(source: str) -> tuple[nn.Module, str]:
    """The encoder and the digest of its files."""
    from archlab.interop import sentence  # imports transformers, which takes seconds
    from archlab.interop.checkpoint import locate
    from archlab.interop.reference import digest_of, shape_of

    if torch.get_default_device().type != "meta":
        return sentence.load_sentence_encoder(source), digest_of(locate(source))
    family, config = shape_of(source)
    if family.name not in ("bert", "gemma"):
        raise UserError(f"vljepa.target_weights={source!r}: a {family.name} is no encoder of text; give one")
    model = sentence.without_unused(family.model_class(config))
    return sentence.SentenceEncoder(model, config.width, config.context), "0" * 64


def _check_reference(module: PretrainedTargetEncoder, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Refuse weights that were trained on other files than there are now."""
    saved = state.get(f"{prefix}reference")
    if saved is not None and not torch.equal(saved.cpu(), module.reference.cpu()):
        raise UserError(
            f"target encoder: its files (digest {_hex(module.reference)}) are not those of the run "
            f"({_hex(saved)}); restore what vljepa.target_weights named then"
        )


def _leave_out(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    for name in [name for name in state if name.startswith(f"{prefix}trunk.")]:
        del state[name]


def _put_back(module: PretrainedTargetEncoder, state: dict[str, Any], prefix: str, *_: Any) -> None:
    state.update({f"{prefix}trunk.{name}": value for name, value in module.trunk.state_dict().items()})


def _hex(digest: Tensor) -> str:
    return bytes(digest.tolist()).hex()[:12]
