"""SGD of a network with one hidden layer, as one loop over steps: about 30 kB of weights that stay in the cache."""

import math

import numba as nb
import numpy as np

RELU, TANH = 0, 1
CROSS_ENTROPY, MSE = 0, 1


@nb.njit(cache=True, nogil=True, error_model="numpy")
def advance(
    inputs, labels, targets, picks, weights, velocity, sizes, kinds, rates, momentum, nesterov, decay, started,
    directions, every, first, projections, losses,
):  # fmt: skip
    """Take len(picks) steps in place; how many came before a loss that is not finite, or all.

    `weights`, `velocity`: flat, W₁ᵀ (I, H), b₁, W₂ᵀ (H, C), b₂, so that the innermost loops run over contiguous
    outputs. `picks` (steps, b), −1 filling a short batch. Every `every`-th step, counted from `first`, writes the
    projections of the weights after it on the columns of `directions`, and the mini-batch loss before it.
    """
    n_in, n_hidden, n_out = sizes
    activation, criterion = kinds
    size = weights.size
    end1 = n_in * n_hidden
    end2 = end1 + n_hidden
    end3 = end2 + n_hidden * n_out
    w1 = weights[:end1].reshape(n_in, n_hidden)
    b1 = weights[end1:end2]
    w2 = weights[end2:end3].reshape(n_hidden, n_out)
    b2 = weights[end3:]
    gradient = np.empty(size)
    g1 = gradient[:end1].reshape(n_in, n_hidden)
    h1 = gradient[end1:end2]
    g2 = gradient[end2:end3].reshape(n_hidden, n_out)
    h2 = gradient[end3:]
    hidden, delta = np.empty(n_hidden), np.empty(n_hidden)
    out = np.empty(n_out)
    row = 0
    for step in range(picks.shape[0]):
        count = 0
        for k in range(picks.shape[1]):
            count += picks[step, k] >= 0
        for i in range(size):
            gradient[i] = decay * weights[i]
        loss = 0.0
        for k in range(picks.shape[1]):
            sample = picks[step, k]
            if sample < 0:
                continue
            for h in range(n_hidden):
                hidden[h] = b1[h]
            for i in range(n_in):
                x = inputs[sample, i]
                if x != 0.0:  # pixels often are
                    for h in range(n_hidden):
                        hidden[h] += x * w1[i, h]
            for h in range(n_hidden):
                hidden[h] = max(hidden[h], 0.0) if activation == RELU else math.tanh(hidden[h])
            for c in range(n_out):
                out[c] = b2[c]
            for h in range(n_hidden):
                for c in range(n_out):
                    out[c] += hidden[h] * w2[h, c]
            if criterion == CROSS_ENTROPY:
                top = out[0]
                for c in range(n_out):
                    top = max(top, out[c])
                total, own = 0.0, out[labels[sample]]
                for c in range(n_out):
                    out[c] = math.exp(out[c] - top)
                    total += out[c]
                loss += math.log(total) - (own - top)
                for c in range(n_out):
                    out[c] /= total * count
                out[labels[sample]] -= 1.0 / count
            else:
                for c in range(n_out):
                    out[c] -= targets[sample, c]
                    loss += out[c] * out[c] / n_out
                    out[c] *= 2.0 / (n_out * count)
            for c in range(n_out):
                h2[c] += out[c]
            for h in range(n_hidden):
                total = 0.0
                for c in range(n_out):
                    g2[h, c] += hidden[h] * out[c]
                    total += w2[h, c] * out[c]
                if activation == RELU:
                    delta[h] = total if hidden[h] > 0.0 else 0.0
                else:
                    delta[h] = total * (1.0 - hidden[h] * hidden[h])
                h1[h] += delta[h]
            for i in range(n_in):
                x = inputs[sample, i]
                if x != 0.0:
                    for h in range(n_hidden):
                        g1[i, h] += x * delta[h]
        rate = rates[step]
        if momentum == 0.0:
            for i in range(size):
                weights[i] -= rate * gradient[i]
        else:
            for i in range(size):
                velocity[i] = momentum * velocity[i] + gradient[i] if started or step > 0 else gradient[i]
                weights[i] -= rate * (gradient[i] + momentum * velocity[i] if nesterov else velocity[i])
        if not math.isfinite(loss):
            return step
        if (first + step + 1) % every == 0:
            losses[row] = loss / count
            projected = projections[row]
            for d in range(projected.size):
                projected[d] = 0.0
            for i in range(size):
                value = weights[i]
                for d in range(projected.size):
                    projected[d] += value * directions[i, d]
            row += 1
    return picks.shape[0]
