"""Losses that more than one method uses, each under its usual name."""

import torch
from torch.nn import functional as F


def cross_entropy_to(logits, probabilities):
    """Cross-entropy −Σ p·log σ(logits) to a fixed distribution, averaged over the batch.

    logits: (N,K).  probabilities: (K,), non-negative, summing to one.  -> scalar
    """
    return -(F.log_softmax(logits, 1) * probabilities).sum(1).mean()


def moment_kl(code):
    """KL(P ‖ N(0,I)) of a diagonal Gaussian P fitted to the rows of `code`; (N,D) -> scalar.

    ½ Σ_d (μ_d² + s_d² − 1 − log s_d²) with the mean μ and the biased variance s² over the batch.
    """
    mean, variance = code.mean(0), code.var(0, correction=0)
    return 0.5 * (mean.square() + variance - 1 - (variance + 1e-8).log()).sum()


def posterior_kl(mean, log_variance):
    """Σ KL(N(mean, e^log_variance) ‖ N(0,I)) over batch and dimensions; (N,D), (N,D) -> scalar."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum()


def squared_error(restored, natural):
    """‖restored − natural‖² summed over each image, averaged over the batch; (N,...) -> scalar."""
    return (restored - natural).square().flatten(1).sum(1).mean()


def real_fake_loss(real_logits, fake_logits):
    """Discriminator's cross-entropy −log D(real) − log(1 − D(fake)); (N,), (M,) -> scalar."""
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


def deceive_loss(fake_logits):
    """Generator's loss −log D(fake); (N,) -> scalar."""
    return F.softplus(-fake_logits).mean()


def gradient_penalty(discriminator, real, fake):
    """(‖∇_x D(x)‖ − 1)² on random mixtures x of `real` and `fake` (N,C,H,W) -> scalar.

    The norm is taken over the channels at each pixel, as in ARN's released code; WGAN-GP
    (Gulrajani et al. 2017) takes it over the whole image.
    """
    mix = torch.rand(len(real), 1, 1, 1, device=real.device, dtype=real.dtype)
    x = (mix * real + (1 - mix) * fake).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator(x).sum(), x, create_graph=True)
    return (gradient.norm(2, dim=1) - 1).square().mean()


def mmd(codes, domains):
    """Mean MMD over all pairs of domains: 1/K² Σ_{k,l} MMD(Z_k, Z_l); (K·B,D) -> scalar.

    ADD, Eq. 1 and Appendix B.  codes: those of the K = `domains` domains one after the other, B each.
    MMD(Z_k, Z_l) is the distance of the means in the feature space of a Gaussian kernel, estimated with
    all pairs (n = n' included, as printed).  The paper leaves its bandwidth σ open: here the median distance
    of the codes at hand (Gretton et al. 2012), through which no gradient flows.
    """
    squared = torch.cdist(codes, codes, compute_mode="donot_use_mm_for_euclid_dist").square()
    bandwidth = squared.detach().median().clamp_min(torch.finfo(codes.dtype).tiny)  # σ²
    kernel = torch.exp(-squared / (2 * bandwidth))
    means = kernel.unflatten(0, (domains, -1)).unflatten(2, (domains, -1)).mean((1, 3))  # (K,K)
    own = means.diagonal()
    k, l = torch.triu_indices(domains, domains, 1, device=codes.device)
    # Each pair counts twice, a domain is at distance 0 from itself; the root has no slope at 0.
    between = (own[k] + own[l] - 2 * means[k, l]).clamp_min(torch.finfo(codes.dtype).eps).sqrt()
    return 2 * between.sum() / domains**2


def boosted_cross_entropy(logits, y):
    """BCE of each image: −log p_y − log(1 − max_{k≠y} p_k); (N,K), (N,) -> (N,).

    Its second term pushes the likeliest wrong class down (Wang et al., MART, ICLR 2020; JATP, Eq. 7).
    """
    log_p = F.log_softmax(logits.float(), 1)
    own = log_p.gather(1, y[:, None]).squeeze(1)
    rival = log_p.scatter(1, y[:, None], -torch.inf).argmax(1, keepdim=True)
    # log(1 − p_rival) as the sum over the other classes: exact even where p_rival rounds to one.
    return -own - log_p.scatter(1, rival, -torch.inf).logsumexp(1)


def feature_similarity(a, b):
    """FSM of each image: mean square difference of the feature maps `a` and `b`; (N,...), (N,...) -> (N,).

    JATP, Eq. 8, where it measures how *dissimilar* the features of natural and adversarial images are.
    """
    return (a - b).float().square().flatten(1).mean(1)
