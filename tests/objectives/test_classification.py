from types import SimpleNamespace

import torch

from archlab.objectives.classification import Classification


def score(logits, meaning):
    model = SimpleNamespace(class_logits=lambda _: logits)
    return Classification()(model, SimpleNamespace(meaning=torch.tensor(meaning)))


def test_loss_is_the_mean_over_known_meanings():
    torch.manual_seed(0)
    logits = torch.randn(4, 5)
    output = score(logits, [3, -1, 0, -1])
    log_probabilities = logits.log_softmax(-1)
    torch.testing.assert_close(output.loss, -(log_probabilities[0, 3] + log_probabilities[2, 0]) / 2)
    assert torch.equal(output.parts["cross_entropy"], output.loss)


def test_a_batch_without_known_meanings_costs_nothing():
    logits = torch.randn(2, 5, requires_grad=True)
    loss = score(logits, [-1, -1]).loss
    loss.backward()
    assert loss == 0
    assert (logits.grad == 0).all()
