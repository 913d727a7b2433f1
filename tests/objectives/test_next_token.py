from types import SimpleNamespace

import torch

from archlab.objectives.next_token import NextToken

VOCABULARY = 11


class Table(torch.nn.Module):
    """A bigram model: the logits of the next token depend on the current token."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.weight = torch.nn.Parameter(torch.randn(VOCABULARY, VOCABULARY))

    def logits(self, batch):
        return self.weight[batch.target[:, :-1]]


def batch():
    target = torch.tensor([[1, 5, 6, 2, 0], [1, 7, 2, 0, 0], [1, 3, 4, 8, 2]])
    return SimpleNamespace(target=target, target_mask=target != 0)


def test_loss_is_the_mean_over_real_answer_tokens():
    model, data = Table(), batch()
    probabilities = model.weight.softmax(-1)
    pairs = [(1, 5), (5, 6), (6, 2), (1, 7), (7, 2), (1, 3), (3, 4), (4, 8), (8, 2)]
    expected = -torch.stack([probabilities[now, after].log() for now, after in pairs]).mean()
    output = NextToken()(model, data)
    torch.testing.assert_close(output.loss, expected)
    torch.testing.assert_close(output.parts["cross_entropy"], expected.detach())
    assert not output.embeddings
    (ours,) = torch.autograd.grad(output.loss, model.weight)
    (naive,) = torch.autograd.grad(expected, model.weight)
    torch.testing.assert_close(ours, naive)


def test_padding_has_neither_loss_nor_gradient():
    model, data = Table(), batch()
    loss = NextToken()(model, data).loss
    wider = SimpleNamespace(
        target=torch.nn.functional.pad(data.target, (0, 3), value=9),
        target_mask=torch.nn.functional.pad(data.target_mask, (0, 3), value=False),
    )
    torch.testing.assert_close(NextToken()(model, wider).loss, loss)


def test_a_uniform_model_pays_the_logarithm_of_the_vocabulary():
    model = Table()
    torch.nn.init.zeros_(model.weight)
    torch.testing.assert_close(NextToken()(model, batch()).loss, torch.tensor(float(VOCABULARY)).log())


def test_the_objective_owns_nothing():
    assert NextToken().state_dict() == {}
