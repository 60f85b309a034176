"""Classifiers that draw random numbers for each image: randomised smoothing, and ME-Net."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.attacks import attackable
from helpers.attacks.pgd import pgd
from helpers.defenses.base import check_settings, descend, detached, fresh_seed
from helpers.defenses.robust_training import Classifier
from helpers.threats import Defended, bpda, eot
from helpers.training import Optimizers, Tensors


class Smoothed(Classifier):
    """A classifier smoothed by Gaussian noise (Cohen et al., ICML 2019): (N,C,S,S) in [0,1] -> logits.

    sigma: standard deviation of the noise, in units of the [0,1] image (ADD, Appendix E: 0.25, 0.5 and 1).
        Noisy images are not clipped.
    samples: noisy copies of an image in a pass in eval mode.
    network, width, learning_rate, and so on: as in `Classifier`.
    Raises ValueError for a sigma that is not positive, or at the first pass for fewer than one sample.

    In train mode it is the base classifier f on noisy images, which `helpers.training.fit` trains as Cohen
    et al. do.  In eval mode it is the *soft* smoothed classifier of Salman et al. 2019, the logarithm of
    the mean of f's probabilities over `samples` copies: it has gradients, so that it can be attacked.
    `votes` counts Cohen's hard votes.  Noise is drawn from torch's global generator, for a whole batch at
    once.
    """

    def __init__(self, sigma: float = 0.25, samples: int = 16, **network) -> None:
        super().__init__(**network)
        if not sigma > 0:
            raise ValueError(f"sigma must be positive, got {sigma}: without noise use `Classifier`")
        self.sigma, self.samples = sigma, samples

    def forward(self, x: Tensor) -> Tensor:
        return self.noisy(x) if self.training else eot(self.noisy, self.samples)(x)

    @property
    def deployed(self) -> nn.Module:
        """The whole of it: the network is only its base classifier."""
        return self

    def noisy(self, x: Tensor) -> Tensor:
        """Logits f(x + σε), ε ~ N(0,I)."""
        return self.network(x + self.sigma * torch.randn_like(x))


@torch.no_grad()
def votes(smoothed: Smoothed, x: Tensor, samples: int = 100) -> Tensor:
    """How many of `samples` noisy copies of each image are given each class; (N,C,S,S) -> (N,K) int64.

    The most frequent class, `votes(...).argmax(1)`, is the prediction of Cohen et al.'s Predict.  Theirs
    abstains where the two largest counts do not differ significantly; ADD counts a right or a wrong answer
    for each image.
    """
    counts = 0
    for _ in range(samples):
        logits = smoothed.noisy(x)
        counts = counts + F.one_hot(logits.argmax(1), logits.shape[1])
    return counts


class MatrixEstimation(nn.Module):
    """ME-Net's denoiser (Yang et al., ICML 2019), without weights: (N,C,H,W) in [0,1] -> the same.

    Hide random pixels, and complete the image by matrix estimation.  The estimate is the default of the
    released code, which it calls universal singular value thresholding (USVT, Chatterjee 2015); its other
    two, nuclear norm and Soft-Impute, are solved by iteration, image by image.

    kept: range of p, the probability that an entry is kept.  In train mode each image draws its own; in eval
        mode it is the middle of the range (the released code's choice for inference).
    rank: share of an image's H singular values that are kept, the largest; at least one.
    Raises ValueError unless 0 < low <= high <= 1 in `kept`, and 0 < rank <= 1.

    The channels, side by side, are one H×(C·W) matrix with values in [-1,1], whose entries are hidden one
    by one.  As in the released code the number of singular values is fixed; Chatterjee's threshold grows with
    √p. Masks come from torch's global generator of the images' device, fresh for each pass and image.

    It hands back no gradient: attack it by BPDA, as its authors do, and over many masks (EOT), as they do
    not.
    """

    def __init__(self, kept: Sequence[float] = (0.4, 0.6), rank: float = 0.8) -> None:
        super().__init__()
        if len(kept) != 2 or not 0 < kept[0] <= kept[1] <= 1:
            raise ValueError(
                f"kept is a range of probabilities [low, high] with 0 < low <= high <= 1, got {kept}"
            )
        if not 0 < rank <= 1:
            raise ValueError(f"rank is a share of the singular values, 0 < rank <= 1, got {rank}")
        self.kept, self.rank = kept, rank

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        low, high = self.kept
        p = low + (high - low) * (torch.rand(n, 1, 1, device=x.device) if self.training else 0.5)
        with torch.autocast(x.device.type, enabled=False):  # an eigenvector in bfloat16 is noise
            matrix = (2 * x - 1).transpose(1, 2).reshape(n, h, c * w)
            mask = (torch.rand_like(matrix) < p).to(x.dtype)
            masked, observed = matrix * mask, mask.mean((1, 2), keepdim=True)
            # The left singular vectors are the eigenvectors of the small Gram matrix, by rising eigenvalue.
            vectors = torch.linalg.eigh(masked @ masked.mT).eigenvectors[..., -max(1, int(self.rank * h)) :]
            # Of a matrix without a single entry the estimate is zero, not 0/0.
            estimate = vectors @ (vectors.mT @ masked) / observed.clamp(min=1 / (h * c * w))
        return ((estimate.reshape(n, h, c, w).transpose(1, 2) + 1) / 2).clamp(0, 1)


class MeNet(Classifier):
    """A classifier of completed images, network ∘ denoiser: (N,C,S,S) in [0,1] -> (N,num_classes) logits.

    kept, rank: of the denoiser, `MatrixEstimation`, behind which the network is deployed.
    attack_settings: keyword arguments of `helpers.attacks.pgd` for adversarial training (DIR's ME-Net-A; the
        released code: eps 8/255, step_size 2/255, steps 7); None: training on natural images.
    network, width, learning_rate, augment, and so on: as in `Classifier`.  Images are cropped and mirrored
        first, then attacked, then completed; for natural training the released code completes ten copies
        beforehand.
    Raises ValueError for settings that the attack or the denoiser does not take.
    """

    def __init__(
        self,
        kept: Sequence[float] = (0.4, 0.6),
        rank: float = 0.8,
        attack_settings: dict | None = None,
        **network,
    ) -> None:
        super().__init__(**network)
        if attack_settings is not None:
            check_settings(pgd, attack_settings)
        if not isinstance(self.behind, nn.Identity):
            raise ValueError("ME-Net has a denoiser of its own: leave `behind` out")
        self.denoiser = MatrixEstimation(kept, rank)
        self.attack_settings = attack_settings

    def forward(self, x: Tensor) -> Tensor:
        return self.network(self.denoiser(x))

    def defended(self, target: nn.Module | None = None) -> Defended:
        """What is deployed: the network, in the place of `target`, behind the matrix estimation."""
        return Defended(self.network, self.denoiser)

    def training_step(self, batch: Tensors, optimizers: Optimizers) -> Tensors:
        """min_θ CE(f(x), y), with `attack_settings` of adversarial x: `natural` (B,C,S,S), `label` (B,)."""
        x, y = self.inputs(batch)
        if self.attack_settings is not None:
            x = self.attacked(x, y)
        risk = F.cross_entropy(self(x), y)
        descend(risk, optimizers["network"])
        return detached({"risk": risk})

    def attacked(self, x: Tensor, y: Tensor) -> Tensor:
        """PGD by BPDA with the identity, a fresh mask in each step, as in the released code."""
        with attackable(self.defended()) as pipeline:
            return pgd(bpda(pipeline), x, y, targeted=False, seed=fresh_seed(), **self.attack_settings)
