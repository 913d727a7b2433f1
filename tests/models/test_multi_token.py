"""Multi-token prediction: the equations, the loss, the count of parameters, and the reference's own module."""

import json
from typing import get_args

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import DeepseekV3ForCausalLM
from transformers.cache_utils import MtpCache
from transformers.modeling_layers import MtpModel

from archlab.interop.checkpoint import load_pretrained, save_pretrained
from archlab.interop.deepseek import prediction_weights
from archlab.interop.parity import multi_token
from archlab.layers.attention import Implementation, set_implementation
from archlab.models.multi_token import ExtraPrediction
from archlab.models.registry import find
from archlab.objectives.multi_token import MultiTokenPrediction, furthest_token_loss

FAMILY = find("deepseek")
LENGTH = 9


@pytest.fixture(scope="module")
def both():
    """A model and two modules."""
    return multi_token.build(FAMILY.config()).model


@pytest.fixture(scope="module")
def model(both):
    return both[0]


@pytest.fixture(scope="module")
def extras(both):
    return both[1:]


@pytest.fixture(scope="module")
def tokens(model):
    return torch.randint(model.config.vocab_size, (2, LENGTH), generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("attention", get_args(Implementation))
def test_modules_one_after_the_other_are_what_the_paper_says(attention):
    pair = multi_token.build(FAMILY.config())
    set_implementation(pair.model, attention)
    error, passed, where = pair.compare()
    assert passed, f"{where}: off by {error}"


@torch.no_grad()
def test_a_module_sees_one_token_more_and_none_after_it(model, extras, tokens):
    states = model.states(tokens)
    before = extras[0](model, states, tokens)
    changed = tokens.clone()
    changed[:, 5] = (changed[:, 5] + 1) % model.config.vocab_size
    after = extras[0](model, states, changed)  # the states as they were: only the module's own look ahead counts
    torch.testing.assert_close(after[:, :4], before[:, :4])
    assert not torch.isclose(after[:, 4], before[:, 4]).all(-1).any()


@torch.no_grad()
@pytest.mark.parametrize("left", [True, False])
def test_padding_changes_no_prediction_and_no_loss(model, extras, tokens, left):
    padding = torch.full((2, 3), 7)
    padded = torch.cat([padding, tokens] if left else [tokens, padding], 1)
    mask = torch.ones_like(padded, dtype=torch.bool)
    mask[:, slice(0, 3) if left else slice(LENGTH, None)] = False
    objective = MultiTokenPrediction()
    plain, other = objective(model, extras, tokens), objective(model, extras, padded, mask=mask)
    torch.testing.assert_close(other.loss, plain.loss, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(other.parts, plain.parts, rtol=1e-5, atol=1e-5)


def test_the_loss_is_the_sum_of_its_parts_and_reaches_every_parameter(model, extras, tokens):
    out = MultiTokenPrediction(weight=0.3)(model, extras, tokens)
    states = model.states(tokens)
    logs, losses = model.head(states).log_softmax(-1), []
    for k in range(3):
        if k:
            states = extras[k - 1](model, states, tokens)
            logs = model.head(states).log_softmax(-1)
        picked = [-logs[b, i, tokens[b, i + k + 1]] for b in range(2) for i in range(LENGTH - k - 1)]
        losses.append(torch.stack(picked).mean())
    torch.testing.assert_close(list(out.parts.values()), [loss.detach() for loss in losses])
    torch.testing.assert_close(out.loss, losses[0] + 0.3 * (losses[1] + losses[2]) / 2)
    out.loss.backward()
    for module in (model, *extras):
        assert [name for name, p in module.named_parameters() if p.grad is None or not (p.grad != 0).any()] == []
        module.zero_grad()


def test_padding_is_not_predicted():
    tokens = torch.tensor([[1, 2, 0, 0]])
    mask = torch.tensor([[True, True, False, False]])
    logits = torch.zeros(1, 4, 3).index_fill_(1, torch.tensor([1, 2, 3]), torch.nan)
    logits[0, 1:] = torch.tensor([9.0, 0.0, 0.0])
    torch.testing.assert_close(furthest_token_loss(logits, tokens, mask), torch.tensor(3.0).log())


def test_the_module_of_deepseek_v3_adds_the_published_parameters():
    """The released files hold model, module, and the tables of the module once more: 680.6e9 in 8 bits, 3.9e9 in 16."""
    config = FAMILY.config("deepseek-v3")
    with torch.device("meta"):
        extra = sum(parameter.numel() for parameter in ExtraPrediction(config).parameters())
    tables = 2 * config.vocab_size * config.width
    assert extra == 11_610_067_968
    assert FAMILY.sizes["deepseek-v3"].parameters + extra + tables == 680_571_043_840 + 3_918_786_560


@torch.no_grad()
def test_a_released_checkpoint_with_the_module_is_read_as_transformers_reads_it(model, extras, tokens, tmp_path):
    save_pretrained(model, tmp_path)
    config, extra, path = model.config, extras[0], tmp_path / "model.safetensors"
    tensors = load_file(path) | prediction_weights(config).to_hf(extra.state_dict())
    last = f"model.layers.{config.depth}"
    tensors[f"{last}.embed_tokens.weight"] = model.token_embedding.weight.clone()
    tensors[f"{last}.shared_head.head.weight"] = model.head.weight.clone()
    save_file(tensors, path, metadata={"format": "pt"})
    written = json.loads((tmp_path / "config.json").read_text()) | {"num_nextn_predict_layers": 1}
    (tmp_path / "config.json").write_text(json.dumps(written))

    main = DeepseekV3ForCausalLM.from_pretrained(tmp_path).eval()
    main._keys_to_ignore_on_load_unexpected = [rf"model\.layers\.{config.depth}.*"]
    theirs = MtpModel.from_pretrained(main).eval()
    states = main.model(input_ids=tokens, use_cache=False).last_hidden_state
    expected = theirs.forward_layer(
        0,
        states[:, :-1],
        torch.arange(1, LENGTH)[None],
        MtpCache(config=main.config.get_mtp_config()),
        input_ids=tokens[:, 1:],
    )

    ours, again = load_pretrained(tmp_path), ExtraPrediction(config)
    shapes = {name: tensor.shape for name, tensor in again.state_dict().items()}
    again.load_state_dict(prediction_weights(config).from_hf(load_file(path), shapes), strict=True)
    found = again(ours, ours.states(tokens), tokens)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
