"""Networks of a few weights, and their D by a plain loop of backward passes: what GradientNoise is held against."""

import numpy as np
import torch
from torch import nn


def linear_net(dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).to(dtype)


def problem(samples=40, dtype=torch.float64):
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(samples, 6, generator=generator, dtype=torch.float64)
    return inputs.to(dtype), torch.randint(3, (samples,), generator=generator)


def looped_gradients(model, inputs, targets, loss=nn.functional.cross_entropy):
    """(N, d) by one backward pass per sample, in eval mode."""
    model = model.eval()
    rows = []
    for x, y in zip(inputs, targets):
        model.zero_grad()
        loss(model(x[None]), y[None]).backward()
        rows.append(torch.cat([p.grad.reshape(-1) for p in model.parameters()]).numpy().copy())
    return np.stack(rows)


def covariance(gradients):
    residuals = gradients - gradients.mean(axis=0)
    return residuals.T @ residuals / len(gradients)
