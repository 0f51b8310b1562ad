"""What a criterion does across a batch or over its calls: a mean or a sum over samples has a D, others are refused."""

import numpy as np
import pytest
import torch
from torch import nn

from sde_sgd.validation import GradientNoise

from ._gradients import covariance, linear_net, looped_gradients, problem

WEIGHTS = torch.tensor([1.0, 1.0, 20.0], dtype=torch.float64)


def test_class_weights_are_refused_as_a_mean_and_kept_as_a_sum():
    model, (inputs, targets) = linear_net(), problem()
    with pytest.raises(ValueError, match=r'reduction="sum"'):
        GradientNoise(model, nn.CrossEntropyLoss(weight=WEIGHTS), (inputs, targets))
    for reduction in ("sum", "none"):
        weighted = nn.CrossEntropyLoss(weight=WEIGHTS, reduction=reduction)
        noise = GradientNoise(model, weighted, (inputs, targets))
        expected = looped_gradients(model, inputs, targets) * WEIGHTS[targets].numpy()[:, None]
        np.testing.assert_allclose(torch.cat(list(noise.sample_gradients())).numpy(), expected, atol=1e-12)


def test_a_weight_far_down_the_dataset_is_seen():
    model, (inputs, targets) = linear_net(), problem()
    targets = (targets > 1).long() * 0
    targets[-1] = 2  # the only sample whose weight differs
    with pytest.raises(ValueError, match="dividing by the sum of class weights"):
        GradientNoise(model, nn.CrossEntropyLoss(weight=WEIGHTS), (inputs, targets))


class Smoothed(nn.Module):
    """The mean over its calls so far, as a progress bar shows it."""

    def __init__(self, keep):
        super().__init__()
        self.keep, self.value = keep, 0.0

    def forward(self, output, target):
        self.value = self.keep * self.value + (1 - self.keep) * nn.functional.cross_entropy(output, target)
        return self.value


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (Smoothed(0.9), "averages over its earlier calls"),
        (lambda output, target: nn.functional.cross_entropy(output, target) ** 0.5 * len(target), "together is"),
        (lambda output, target: nn.functional.cross_entropy(output, target) * torch.rand(()), "random criterion"),
        (lambda output, target: output.sum(dim=0) if len(output) > 1 else output.sum(), r"together is of shape \(3,\)"),
        (lambda output, target: 1.0, "loss gives float"),
        (nn.CrossEntropyLoss(ignore_index=2), "the loss of sample 0 is nan"),
    ],
)
def test_other_criteria_are_refused(loss, message):
    inputs, targets = problem()
    targets[0] = 2
    with pytest.raises(ValueError, match=message):
        GradientNoise(linear_net(), loss, (inputs, targets))


@pytest.mark.parametrize("place", [0, 23])
def test_a_mean_over_time_is_one_of_samples_only_where_all_are_as_long(place):
    """Sequences of five labels: where some positions do not count, a batch is divided by how many do."""
    model = nn.Sequential(nn.Linear(2, 3), nn.Flatten(1), nn.Unflatten(1, (5, 3)), Swapped()).double()
    generator = torch.Generator().manual_seed(4)
    inputs = torch.randn(30, 5, 2, generator=generator, dtype=torch.float64)
    targets = torch.randint(3, (30, 5), generator=generator)
    noise = GradientNoise(model, nn.CrossEntropyLoss(), (inputs, targets))
    gradients = looped_gradients(model, inputs, targets)
    np.testing.assert_allclose(noise.matrix(), covariance(gradients), rtol=0, atol=1e-12)
    targets[place, 2:] = -100
    with pytest.raises(ValueError, match="by how many positions are not ignored"):
        GradientNoise(model, nn.CrossEntropyLoss(), (inputs, targets))
    summed = GradientNoise(model, nn.CrossEntropyLoss(reduction="sum"), (inputs, targets))
    gradients = looped_gradients(model, inputs, targets, nn.CrossEntropyLoss(reduction="sum"))
    np.testing.assert_allclose(summed.matrix(), covariance(gradients), rtol=0, atol=1e-12)


class Swapped(nn.Module):
    def forward(self, x):
        return x.transpose(1, 2)
