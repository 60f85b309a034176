"""ME-Net (Yang et al., ICML 2019): hide random pixels, complete the image by matrix estimation, classify that.

The estimate is the default of the released code, which it calls universal singular value thresholding (USVT,
Chatterjee 2015); its other two, nuclear norm and Soft-Impute, are solved by iteration, image by image.
"""

import torch
from torch import nn

from helpers import threats
from helpers.attacks import attackable
from helpers.attacks.pgd import pgd
from helpers.defenses.adversarial_training import check_settings
from helpers.defenses.classifier import Classifier


class MatrixEstimation(nn.Module):
    """A denoiser without weights: (N,C,H,W) in [0,1] -> the same shape in [0,1].

    kept: range of p, the probability that an entry is kept.  In train mode each image draws its own; in eval
        mode it is the middle of the range (the released code's choice for inference).
    rank: share of an image's H singular values that are kept, the largest; at least one.
    Raises ValueError unless 0 < low <= high <= 1 in `kept`, and 0 < rank <= 1.

    The channels, side by side, are one H×(C·W) matrix with values in [-1,1], whose entries are hidden one by
    one.  As in the released code the number of singular values is fixed; Chatterjee's threshold grows with √p.
    Masks come from torch's global generator of the images' device, fresh in each pass and for each image.

    It hands back no gradient: attack it by BPDA, as its authors do, and over many masks (EOT), as they do not.
    """

    def __init__(self, kept=(0.4, 0.6), rank=0.8):
        super().__init__()
        if len(kept) != 2 or not 0 < kept[0] <= kept[1] <= 1:
            raise ValueError(f"kept is a range of probabilities [low, high] with 0 < low <= high <= 1, got {kept}")
        if not 0 < rank <= 1:
            raise ValueError(f"rank is a share of the singular values, 0 < rank <= 1, got {rank}")
        self.kept, self.rank = kept, rank

    @torch.no_grad()
    def forward(self, x):
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

    kept, rank: of the denoiser, `MatrixEstimation`.
    attack_settings: keyword arguments of `helpers.attacks.pgd` for adversarial training (DIR's ME-Net-A; the
        released code: eps 8/255, step_size 2/255, steps 7); None: training on natural images.
    network, width, learning_rate, augment, and so on: as in `Classifier`.  Images are cropped and mirrored first,
        then attacked, then completed; for natural training the released code completes ten copies beforehand.
    Raises ValueError for settings that the attack or the denoiser does not take.

    `deployed` is the network alone, to be put behind `denoiser`.
    """

    def __init__(self, kept=(0.4, 0.6), rank=0.8, attack_settings=None, **network):
        super().__init__(**network)
        if attack_settings is not None:
            check_settings(pgd, attack_settings)
        self.denoiser, self.attack_settings = MatrixEstimation(kept, rank), attack_settings

    def forward(self, x):
        return self.network(self.denoiser(x))

    def images(self, batch):
        """The batch's images as in `Classifier`, with `attack_settings` adversarial examples of them; (B,C,S,S).

        By BPDA with the identity, and a fresh mask in each step (`backward` of the released code's layers).
        """
        from helpers.threats import Defended

        x = super().images(batch)
        if self.attack_settings is None:
            return x
        pipeline, seed = Defended(self.network, self.denoiser), int(torch.randint(2**31, ()))
        with attackable(pipeline):
            return pgd(threats.bpda(pipeline), x, batch["label"], targeted=False, seed=seed, **self.attack_settings)
