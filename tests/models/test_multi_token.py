"""Multi-token prediction: the equations, the loss, the count of parameters, and the reference's own module."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from transformers import DeepseekV3ForCausalLM
from transformers.cache_utils import MtpCache
from transformers.modeling_layers import MtpModel

from archlab.interop.checkpoint import load_pretrained, save_pretrained
from archlab.interop.deepseek import prediction_weights
from archlab.interop.parity.twin import randomise
from archlab.models.multi_token import ExtraPrediction
from archlab.models.registry import find
from archlab.objectives.multi_token import MultiTokenPrediction, furthest_token_loss

FAMILY = find("deepseek")
LENGTH = 9


@pytest.fixture(scope="module")
def model():
    model = FAMILY.model_class(FAMILY.config()).eval()
    randomise(model, torch.Generator().manual_seed(0))
    return model


@pytest.fixture(scope="module")
def extras(model):
    made = []
    for seed in (1, 2):
        extra = ExtraPrediction(model.config).eval()
        randomise(extra, torch.Generator().manual_seed(seed))
        extra.block.feed_forward.router.correction.normal_(std=0.3, generator=torch.Generator().manual_seed(seed))
        made.append(extra)
    return made


@pytest.fixture(scope="module")
def tokens(model):
    return torch.randint(model.config.vocab_size, (2, LENGTH), generator=torch.Generator().manual_seed(3))


def rms(x, weight, eps):
    return x / (x.pow(2).mean() + eps) ** 0.5 * weight


def turn(x, position, frequencies, scale):
    """Neighbouring features as complex numbers."""
    pairs = torch.complex(x[0::2], x[1::2]) * torch.polar(torch.full_like(frequencies, scale), position * frequencies)
    return torch.stack([pairs.real, pairs.imag], -1).flatten()


def naive_block(config, block, rows, frequencies, turned):
    """One layer of one sequence, token by token and head by head; states (n, W)."""
    eps, attention, out = config.norm_eps, block.attention, []
    normed = [rms(x, block.attention_norm.weight, eps) for x in rows]
    for t, x in enumerate(normed):
        query = rms(attention.q_down.weight @ x, attention.q_norm.weight, 1e-6)
        heads = (attention.q_proj.weight @ query).view(config.heads, -1)
        mixed = []
        for h in range(config.heads):
            matrix = attention.kv_proj.weight.view(config.heads, -1, config.key_value_latent)[h]
            scores, values = [], []
            for s in range(t + 1):
                latent, key = (attention.kv_down.weight @ normed[s]).split(
                    [config.key_value_latent, config.rotary_width]
                )
                latent = rms(latent, attention.kv_norm.weight, 1e-6)
                content, position = heads[h].split([config.head_width, config.rotary_width])
                score = content @ (matrix[: config.head_width] @ latent)
                score = score + turn(position, t, frequencies, turned) @ turn(key, s, frequencies, turned)
                scores.append(score * attention.scale)
                values.append(matrix[config.head_width :] @ latent)
            mixed.append(sum(w * v for w, v in zip(torch.stack(scores).softmax(0), values, strict=True)))
        x = rows[t] + attention.out_proj.weight @ torch.cat(mixed)
        out.append(x + naive_experts(config, block.feed_forward, rms(x, block.feed_forward_norm.weight, eps)))
    return out


def naive_experts(config, layer, x):
    """Mixture of experts for one token."""
    scores = (layer.router.weight @ x).sigmoid()
    preference = (scores + layer.router.correction).tolist()
    size = config.experts // config.groups
    groups = [preference[g * size : (g + 1) * size] for g in range(config.groups)]
    best = sorted(range(config.groups), key=lambda g: -sum(sorted(groups[g])[-2:]))[: config.chosen_groups]
    reach = [e for g in best for e in range(g * size, (g + 1) * size)]
    chosen = sorted(reach, key=lambda e: -preference[e])[: config.chosen_experts]

    def gated(gate, up, down):
        return down @ (F.silu(gate @ x) * (up @ x))

    total = sum(scores[e] for e in chosen)
    parts = [layer.gate_proj.weight, layer.up_proj.weight, layer.down_proj.weight]
    out = gated(layer.shared.gate_proj.weight, layer.shared.up_proj.weight, layer.shared.down_proj.weight)
    for e in chosen:
        out = out + config.routed_scale * scores[e] / total * gated(*(part[e] for part in parts))
    return out


@torch.no_grad()
def test_modules_one_after_the_other_are_what_the_paper_says(model, extras, tokens):
    config, rotary = model.config, model.rotary
    states = model.states(tokens)
    for k, extra in enumerate(extras, 1):
        expected = []
        for sample in range(2):
            rows = []
            for i in range(LENGTH - k):
                embedding = rms(model.token_embedding.weight[tokens[sample, i + k]], extra.embedding_norm.weight, 1e-4)
                state = rms(states[sample, i], extra.state_norm.weight, 1e-4)
                rows.append(extra.projection.weight @ torch.cat([embedding, state]))
            scale = rotary.scaling.attention_scale
            rows = naive_block(config, extra.block, rows, rotary.frequencies, scale)
            expected.append(torch.stack([rms(x, extra.norm.weight, 1e-4) for x in rows]))
        states = extra(model, states, tokens)
        assert states.shape == (2, LENGTH - k, config.width)
        torch.testing.assert_close(states, torch.stack(expected), rtol=1e-4, atol=1e-5)


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
