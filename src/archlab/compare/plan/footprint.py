"""What a training step of an arm keeps in memory: counted on tensors without content, so that any size can be planned.

The arm is built and its loss computed as in training, on fake tensors; what autograd saves for the backward pass is
added up tensor by tensor. Nothing is estimated but what the kernels of a device use for themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from archlab.compare.cost import parameter_counts
from archlab.compare.flops import BatchShape, Sizes, training_flops
from archlab.config import RunConfig
from archlab.data.batch import Batch
from archlab.train.run import build_objective
from archlab.train.together import blocks_of
from archlab.vl.arms import build_arm

_FLOAT = 4  # bytes; weights, gradients and the optimiser's state are float32
_MOMENTS = 2  # of AdamW


@dataclass(frozen=True)
class Footprint:
    """One arm.

    Attributes:
        parts: parameters by part of the arm, as `compare.cost` counts them.
        trainable: parameters that the optimiser changes.
        parameters: all of the arm.
        largest_layer: parameters of its largest block, which sharded training gathers while it computes.
        outside: parameters of no block, which sharded training gathers for the whole of a step.
        saved: bytes that one device's share of a batch keeps for its backward pass.
        flops: operations of one step on the whole batch.
    """

    parts: dict[str, int]
    trainable: int
    parameters: int
    largest_layer: int
    outside: int
    saved: int
    flops: int

    def bytes_on_each(self, devices: int, encoder: int, *, sharded: bool) -> dict[str, int]:
        """Memory of each device by use.

        Args:
            encoder: parameters of the frozen X-encoder, which stays on every device.
            sharded: split weights, gradients and moments among them (FSDP2); otherwise each has a copy (DDP), which
                keeps the gradients a second time, in the buckets that are averaged.
        """
        share = devices if sharded else 1
        gathered = self.outside + 2 * self.largest_layer if sharded else 0
        copies = 1 if sharded or devices == 1 else 2
        # The first device holds the model whole while it is evaluated, when there are no activations of training.
        whole = _FLOAT * self.parameters if sharded else 0
        return {
            "X-encoder": _FLOAT * encoder,
            "weights": _FLOAT * (self.parameters // share + gathered),
            "gradients": copies * _FLOAT * self.trainable // share,
            "optimiser": _FLOAT * _MOMENTS * self.trainable // share,
            "activations": max(self.saved, whole),
        }


def footprint(run: RunConfig, sizes: Sizes, shape: BatchShape, devices: int) -> Footprint:
    """Count one arm.

    Args:
        shape: of the whole batch; each device computes its share, rounded up.

    Raises:
        UserError: a pretrained part is not known.
    """
    samples = -(-shape.samples // devices)
    with torch.device("meta"):  # of pretrained parts only the shape is read
        arm: Any = build_arm(run, sizes.feature_width, sizes.vocab_size, sizes.meanings)
    counts = parameter_counts(arm)
    with FakeTensorMode():
        _make_fake(arm)
        saved = _saved_bytes(run, arm, build_objective(run), _batch(sizes, shape, samples))
    blocks = [sum(parameter.numel() for parameter in block.parameters()) for block in blocks_of(arm)]
    return Footprint(
        parts={part: count for part, count in counts["parts"].items() if part != "encoder_frozen"},
        trainable=counts["trainable"],
        parameters=counts["total"],
        largest_layer=max(blocks, default=0),
        outside=counts["total"] - sum(blocks),
        saved=saved,
        flops=sum(training_flops(run, sizes, shape).values()),
    )


def _make_fake(model: torch.nn.Module) -> None:
    """Give a model on the meta device tensors without content on the processor, where it computes as it would there."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            fake = torch.nn.Parameter(torch.empty(parameter.shape), parameter.requires_grad)
            module.register_parameter(name, fake)
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype))


def _saved_bytes(run: RunConfig, arm: torch.nn.Module, objective: torch.nn.Module, batch: Batch) -> int:
    """Bytes of all distinct tensors that the backward pass will read, without the parameters themselves."""
    saved: dict[int, Any] = {}  # of the storage, which is kept so that no other gets its number

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        saved[storage._cdata] = storage
        return tensor

    own = {tensor.untyped_storage()._cdata for tensor in (*arm.parameters(), *objective.parameters(), *arm.buffers())}
    narrow = run.optimizer.precision == "bfloat16"
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=narrow),
    ):
        loss = objective(arm, batch).loss
    assert loss.requires_grad
    return sum(storage.nbytes() for number, storage in saved.items() if number not in own)


def _batch(sizes: Sizes, shape: BatchShape, samples: int) -> Batch:
    def tokens(length: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.zeros(samples, length, dtype=torch.long), torch.ones(samples, length, dtype=torch.bool)

    return Batch(
        torch.zeros(samples, shape.visual, sizes.feature_width),
        *tokens(shape.query),
        *tokens(shape.target),
        torch.arange(samples),
        torch.arange(samples),
        [],
    )
