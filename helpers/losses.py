"""Losses that more than one method uses, each under its usual name."""

import torch
from torch import Tensor
from torch.nn import functional as F


def cross_entropy_to(logits: Tensor, probabilities: Tensor) -> Tensor:
    """Cross-entropy −Σ p·log σ(logits) to a fixed distribution, averaged over the batch.

    logits: (N,K).
    probabilities: (K,), non-negative, summing to one.
    -> scalar
    """
    return -(F.log_softmax(logits, 1) * probabilities).sum(1).mean()


def kl(logits: Tensor, other: Tensor) -> Tensor:
    """Σ_k p_k log(p_k/q_k) of the probabilities p, q that the two logits stand for; (N,K), (N,K) -> (N,)."""
    log_p, log_q = F.log_softmax(logits, 1), F.log_softmax(other, 1)
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)


def moment_kl(code: Tensor) -> Tensor:
    """KL(P ‖ N(0,I)) of a diagonal Gaussian P fitted to the rows of `code`; (N,D) -> scalar.

    ½ Σ_d (μ_d² + s_d² − 1 − log s_d²) with the mean μ and the biased variance s² over the batch.
    """
    mean, variance = code.mean(0), code.var(0, correction=0)
    return 0.5 * (mean.square() + variance - 1 - (variance + 1e-8).log()).sum()


def posterior_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Σ KL(N(mean, e^log_variance) ‖ N(0,I)) over batch and dimensions; (N,D), (N,D) -> scalar."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum()


def real_fake_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Discriminator's cross-entropy −log D(real) − log(1 − D(fake)); (N,), (M,) -> scalar."""
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


def deceive_loss(fake_logits: Tensor) -> Tensor:
    """Generator's loss −log D(fake); (N,) -> scalar."""
    return F.softplus(-fake_logits).mean()


def boosted_cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """BCE of each image: −log p_y − log(1 − max_{k≠y} p_k); (N,K), (N,) -> (N,).

    Its second term pushes the likeliest wrong class down (Wang et al., MART, ICLR 2020; JATP, Eq. 7).
    """
    log_p = F.log_softmax(logits.float(), 1)
    own = log_p.gather(1, y[:, None]).squeeze(1)
    rival = log_p.scatter(1, y[:, None], -torch.inf).argmax(1, keepdim=True)
    # log(1 − p_rival) as the sum over the other classes: exact even where p_rival rounds to one.
    return -own - log_p.scatter(1, rival, -torch.inf).logsumexp(1)
