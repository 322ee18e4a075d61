import pytest
import torch

from cbsae_hub.trainers.config import SAETrainConfig
from cbsae_hub.trainers.sae.step import penalised_loss


@pytest.mark.parametrize(("reduction", "weight"), [("sum", 1), ("mean", 1 / 3), ("dictionary_learning", 1 / 9)])
def test_relu_loss_is_group_errors_plus_weighted_l1(make_sae, x, reduction, weight):
    sae = make_sae("relu", groups=True)
    config = SAETrainConfig(matryoshka_reduction=reduction, sparsity_coefficient=0.3)
    loss, latents = penalised_loss(sae, x, config)
    expected_latents = torch.relu((x - sae.b_dec) @ sae.W_enc + sae.b_enc)
    errors = [
        ((x - sae.b_dec - expected_latents[:, :end] @ sae.W_dec[:end]) ** 2).sum() / len(x) for end in (6, 18, 48)
    ]
    l1 = (expected_latents * sae.W_dec.norm(dim=1)).sum() / len(x)
    torch.testing.assert_close(latents, expected_latents)
    torch.testing.assert_close(loss.reconstruction, weight * sum(errors))
    torch.testing.assert_close(loss.penalty, l1)
    torch.testing.assert_close(loss.total, weight * sum(errors) + 0.3 * l1)
