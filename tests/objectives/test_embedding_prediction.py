from types import SimpleNamespace

import pytest
import torch

from archlab.config import ContrastiveConfig
from archlab.objectives.contrastive import InfoNCE
from archlab.objectives.embedding_prediction import EmbeddingPrediction
from archlab.objectives.next_token import next_token_loss


class Toy(torch.nn.Module):
    """Free embeddings, and a decoder whose logits depend on the embedding."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.predicted, self.target = (torch.nn.Parameter(torch.randn(3, 4)) for _ in range(2))
        self.speak = torch.nn.Linear(4, 7)

    def embed(self, batch):
        return self.predicted, self.target

    def decoder(self, embedding, target, target_mask):
        return self.speak(embedding)[:, None].expand(-1, target.shape[1], -1)


@pytest.fixture
def batch():
    target = torch.tensor([[1, 5, 2, 0], [1, 6, 3, 2], [1, 2, 0, 0]])
    meaning = torch.tensor([0, 0, 1])
    return SimpleNamespace(target=target, target_mask=target != 0, meaning=meaning, text=meaning)


def test_loss_is_the_sum_of_its_parts(batch):
    model, config = Toy(), ContrastiveConfig()
    output = EmbeddingPrediction(config)(model, batch)
    spoken = next_token_loss(model.speak(model.target)[:, None].expand(-1, 3, -1), batch)
    torch.testing.assert_close(output.parts["decoder"], spoken.detach())
    torch.testing.assert_close(output.parts["info_nce"], InfoNCE(config)(model, batch).loss.detach())
    torch.testing.assert_close(output.loss.detach(), output.parts["info_nce"] + output.parts["decoder"])


def test_speaking_teaches_the_decoder_and_nothing_else(batch):
    model, config = Toy(), ContrastiveConfig()
    EmbeddingPrediction(config)(model, batch).loss.backward()
    assert (model.speak.weight.grad != 0).any()
    alone = torch.autograd.grad(InfoNCE(config)(model, batch).loss, (model.predicted, model.target))
    torch.testing.assert_close((model.predicted.grad, model.target.grad), alone)
