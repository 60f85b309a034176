"""Who is broken: the untouched model, asked about images in the ball around the attacked one."""

import warnings

import torch
from torch import Tensor, nn

from helpers.measure.rates import labels_of


class Ball:
    """The images within `eps` of an image in the `norm` "linf" or "l2", and within [0,1]."""

    def __init__(self, eps: float, norm: str) -> None:
        self.eps, self.norm = eps, norm

    def length(self, change: Tensor) -> Tensor:
        """The norm of each of (N,C,H,W), as (N,1,1,1), kept off zero."""
        flat = change.flatten(1)
        length = flat.abs().amax(1) if self.norm == "linf" else flat.norm(dim=1)
        return length.clamp_(min=1e-12).view(-1, 1, 1, 1)

    def project(self, x: Tensor, images: Tensor) -> Tensor:
        """`images` pulled into the balls around `x`."""
        change = images - x
        if self.norm == "linf":
            change.clamp_(-self.eps, self.eps)
        else:
            change.mul_((self.eps / self.length(change)).clamp_(max=1))
        return change.add_(x).clamp_(0, 1)

    def start(self, x: Tensor) -> Tensor:
        """A random point of the ball's surface for each of `x`."""
        noise = 2 * torch.rand_like(x) - 1 if self.norm == "linf" else torch.randn_like(x)
        return (x + self.eps * noise / self.length(noise)).clamp_(0, 1)

    def uphill(self, gradient: Tensor) -> Tensor:
        """The direction of length 1 in which a function of that gradient rises most."""
        return gradient.sign() if self.norm == "linf" else gradient / self.length(gradient)

    def to_plane(self, points: Tensor, normal: Tensor, height: Tensor) -> Tensor:
        """The shortest change of `points` (N,C,H,W) within [0,1] that lowers normal·point by `height` (N,).

        Pixel i moves by min(λ·speed_i, room_i), where Σ |normal_i| · min(λ·speed_i, room_i) = |height|.
        The left side is concave and in pieces linear in λ, so that Newton's method finds λ in a few steps.
        """
        shape, points, normal, height = points.shape, points.flatten(1), normal.flatten(1), height[:, None]
        steep, towards = normal.abs(), -(height.sign() * normal).sign()
        room = torch.where(towards > 0, 1 - points, points)
        speed = torch.ones_like(steep) if self.norm == "linf" else steep
        gain, most, height = steep * speed, steep * room, height.abs()
        size = height / gain.sum(1, keepdim=True).clamp_(min=1e-12)
        for _ in range(8):
            full = size * speed >= room
            left = height - (most * full).sum(1, keepdim=True)
            size = (left / (gain * ~full).sum(1, keepdim=True).clamp_(min=1e-12)).clamp_(min=0)
        return (towards * torch.minimum(size * speed, room)).view(shape)


class Judge:
    """The untouched model, and who has been broken before its eyes: `broken` (N,)."""

    def __init__(
        self, model: nn.Module, x: Tensor, y: Tensor, ball: Ball, targeted: bool, batch_size: int
    ) -> None:
        self.model, self.x, self.y, self.ball = model, x, y, ball
        self.targeted, self.batch_size = targeted, batch_size
        self.logits = self._ask(x)
        self.broken = self.won(self.logits, y)
        # Where a stand-in was wrong and the model was not.
        self.doubtful = torch.zeros_like(self.broken)

    def won(self, logits: Tensor, y: Tensor) -> Tensor:
        """Whether `logits` (n,K) are what the attacker of images with labels `y` (n,) wants, (n,).

        NaN is no answer: no label, neither the true one nor a target.
        """
        return (labels_of(logits) == y) == self.targeted

    def look(self, rows: Tensor, images: Tensor, logits: Tensor) -> None:
        """Show the model those `images` on which the stand-in's `logits` say that the attack has won."""
        proposed = self.won(logits, self.y[rows])
        if proposed.any():
            self.show(rows[proposed], images[proposed])

    def show(self, rows: Tensor, images: Tensor) -> None:
        """Show the model `images`, attacks on those of the numbers `rows` (n,), pulled into the ball."""
        images = self.ball.project(self.x[rows], images)
        real = images.isfinite().flatten(1).all(1)  # an attack that went astray proves nothing
        logits = self._ask(images)
        if none := int((logits.isnan().any(1) & real).sum()):
            message = f"the model's answers to {none} of {len(rows)} images are NaN, which counts as wrong"
            warnings.warn(message, stacklevel=3)
        won = self.won(logits, self.y[rows]) & real
        self.broken[rows[won]] = True
        self.doubtful[rows[~won]] = True

    @torch.no_grad()
    def _ask(self, images: Tensor) -> Tensor:
        # A copy each: a model may normalise its input in place.
        return torch.cat([self.model(part.clone()) for part in images.split(self.batch_size)])
