"""Mamba in `transformers`: the same tensors under other names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from transformers import MambaConfig as TheirConfig
from transformers import MambaForCausalLM, PretrainedConfig, PreTrainedModel

from archlab.errors import UserError
from archlab.interop.options import Options
from archlab.interop.parity import faults
from archlab.interop.weights import Rule, WeightMap
from archlab.layers.ssm import MambaMixer
from archlab.models.mamba import MambaConfig

_OPTIONS = Options(
    copied={
        "vocab_size": "vocab_size",
        "width": "hidden_size",
        "depth": "num_hidden_layers",
        "expand": "expand",
        "state_size": "state_size",
        "kernel": "conv_kernel",
        "step_rank": "time_step_rank",
        "norm_eps": "layer_norm_epsilon",
    },
    fixed={
        "hidden_act": "silu",
        "use_bias": False,
        "use_conv_bias": True,
        "residual_in_fp32": True,
        "tie_word_embeddings": True,
    },
    handled=("intermediate_size", "rms_norm", "ssm_cfg"),
    ignored=(
        # The start of training.
        "rescale_prenorm_residual",
        "time_step_floor",
        "time_step_init_scheme",
        "time_step_max",
        "time_step_min",
        "time_step_scale",
        # Which of several equal implementations runs.
        "fused_add_norm",
        "use_associative_scan",
        "use_mambapy",
        # The same again under the names of the original code.
        "d_inner",
        "d_model",
        "n_layer",
        "pad_vocab_size_multiple",
    ),
)


def config_from_hf(theirs: PretrainedConfig) -> MambaConfig:
    """See `interop.family.Interop`."""
    options = _OPTIONS.read(theirs)
    for name, only in (
        ("intermediate_size", theirs.expand * theirs.hidden_size),
        ("rms_norm", True),
        ("ssm_cfg", {}),
    ):
        if getattr(theirs, name, only) != only:
            raise UserError(f"mamba option {name}={getattr(theirs, name)!r}: only {only!r} is implemented")
    return MambaConfig(**options)


def config_to_hf(config: MambaConfig) -> TheirConfig:
    """See `interop.family.Interop`."""
    return TheirConfig(**_OPTIONS.write(config))


def weights(config: MambaConfig) -> WeightMap:
    """See `interop.family.Interop`."""
    ours, theirs = "blocks.{layer}", "backbone.layers.{layer}"
    return WeightMap(
        rules=(
            Rule("token_embedding.weight", "backbone.embeddings.weight"),
            Rule(f"{ours}.norm.weight", f"{theirs}.norm.weight"),
            Rule(f"{ours}.mixer.{{outer}}.weight", f"{theirs}.mixer.{{outer}}.weight"),
            Rule(f"{ours}.mixer.convolution.{{part}}", f"{theirs}.mixer.conv1d.{{part}}"),
            Rule(f"{ours}.mixer.selection_proj.weight", f"{theirs}.mixer.x_proj.weight"),
            Rule(f"{ours}.mixer.step_proj.{{part}}", f"{theirs}.mixer.dt_proj.{{part}}"),
            Rule(f"{ours}.mixer.log_decay", f"{theirs}.mixer.A_log"),
            Rule(f"{ours}.mixer.skip", f"{theirs}.mixer.D"),
            Rule("norm.weight", "backbone.norm_f.weight"),
        ),
        values={"layer": range(config.depth), "outer": ("in_proj", "out_proj"), "part": ("weight", "bias")},
        prefix="backbone.",
        tied={"lm_head.weight": "backbone.embeddings.weight"},
    )


def reference(theirs: TheirConfig) -> PreTrainedModel:
    """See `interop.family.Interop`."""
    return MambaForCausalLM(theirs)


def _edit(change: Callable[[MambaMixer], None]) -> faults.Edit:
    def edit(_: nn.Module, blocks: Sequence[nn.Module]) -> None:
        for mixer in _mixers(blocks):
            change(mixer)

    return edit


def _mixers(blocks: Sequence[nn.Module]) -> Iterator[MambaMixer]:
    return (module for block in blocks for module in block.modules() if isinstance(module, MambaMixer))


def _swap_gate(mixer: MambaMixer) -> None:
    convolved, gate = mixer.in_proj.weight.data.chunk(2)
    mixer.in_proj.weight.data = torch.cat([gate, convolved])


def _swap_write_and_read(mixer: MambaMixer) -> None:
    step, write, read = mixer.selection_proj.weight.data.split(mixer.sizes)
    mixer.selection_proj.weight.data = torch.cat([step, read, write])


def _reverse(mixer: MambaMixer) -> None:
    mixer.convolution.weight.data = mixer.convolution.weight.data.flip(-1)


def _exponentiate(mixer: MambaMixer) -> None:
    mixer.log_decay.data = mixer.log_decay.data.exp()


def _take_logarithm(mixer: MambaMixer) -> None:
    # Of a parameter that is no exponential there is none; the repair is only tried there, and must not give NaN.
    tensor: Tensor = mixer.log_decay.data
    mixer.log_decay.data = tensor.clamp(min=torch.finfo(tensor.dtype).tiny).log()


BLOCKS = (("blocks", "backbone.layers"),)
FAULTS = (
    faults.Fault(
        "A_log is exponentiated twice: the file holds the logarithm of the decay rates",
        _edit(_exponentiate),
        _edit(_take_logarithm),
    ),
    faults.Fault(
        "B and C, what is written to the state and read from it, are swapped", *[_edit(_swap_write_and_read)] * 2
    ),
    faults.Fault("the gate is taken for the input of the convolution, or the reverse", *[_edit(_swap_gate)] * 2),
    faults.Fault("the taps of the convolution are in the reverse order", *[_edit(_reverse)] * 2),
    faults.epsilon(),
)
