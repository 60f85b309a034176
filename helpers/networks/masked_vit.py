"""The masked autoencoder of He et al. (CVPR 2022), small enough for 32×32 images: the backbone of DIR's denoiser."""

import torch
from torch import nn

HEADS = 3


class MaskedViT(nn.Module):
    """Redraws a whole image from some of its patches; hidden patches are never computed with.

    The published network (DIR, Section 4.1; sizes from the released code): patches of 2×2 pixels, 192 channels,
    3 heads, 8 blocks that see the visible patches alone and 2 that see all places.
    width: of the 192 channels, rounded to a multiple of the heads.  encoder, decoder: blocks.
    Raises ValueError for a patch that does not divide the image, and for images of another size.
    """

    def __init__(self, num_classes=None, width=1.0, in_channels=3, image_size=32, patch=2, encoder=8, decoder=2):
        from timm.models.vision_transformer import Block  # takes a second to import

        super().__init__()
        if image_size % patch:
            raise ValueError(f"patches of {patch} pixels do not divide an image of {image_size}: choose a divisor")
        channels = HEADS * max(1, round(width * 192 / HEADS))
        self.size, self.patch, self.places = image_size, patch, (image_size // patch) ** 2
        self.embed = nn.Linear(in_channels * patch**2, channels)
        self.encoder = nn.Sequential(*[Block(channels, HEADS) for _ in range(encoder)], nn.LayerNorm(channels))
        self.decoder = nn.Sequential(*[Block(channels, HEADS) for _ in range(decoder)])
        self.head = nn.Linear(channels, in_channels * patch**2)
        # Where a patch stands, told to the encoder and again to the decoder; and what stands for a hidden one.
        self.encoder_places = nn.Parameter(torch.empty(self.places, channels))
        self.decoder_places = nn.Parameter(torch.empty(self.places, channels))
        self.hidden = nn.Parameter(torch.empty(channels))
        for parameter in (self.encoder_places, self.decoder_places, self.hidden):
            nn.init.trunc_normal_(parameter, std=0.02)

    def forward(self, x, visible, slots=None):
        """x (N,C,S,S) in [0,1], of which only the patches `visible` (N,V), row by row from 0, are shown -> (N,C,S,S).

        slots: (N,V), the places that the decoder takes the visible patches to stand at; by default their own.
        The result is about in [0,1], without a limit.
        """
        if x.shape[-2:] != (self.size, self.size):
            raise ValueError(f"made for images of {self.size}×{self.size} pixels (image_size), got {tuple(x.shape[-2:])}")
        patches = to_patches(2 * x - 1, self.patch)
        seen = self.embed(take(patches, visible)) + self.encoder_places[visible]
        code = self.encoder(seen)
        slots = visible if slots is None else slots
        every = self.hidden.to(code.dtype).expand(len(x), self.places, -1)
        every = every.scatter(1, slots[..., None].expand_as(code), code)
        decoded = self.decoder(every + self.decoder_places)
        with torch.autocast(x.device.type, enabled=False):  # an image in bfloat16 has fewer than 256 shades
            restored = self.head(decoded.float())
        return (to_images(restored, self.patch, x.shape[1]) + 1) / 2


def to_patches(x, patch):
    """Images (N,C,S,S) -> their patches (N,P,C·p·p), row by row."""
    n, c, size, _ = x.shape
    rows = size // patch
    return x.reshape(n, c, rows, patch, rows, patch).permute(0, 2, 4, 1, 3, 5).reshape(n, rows**2, -1)


def to_images(patches, patch, channels):
    """The inverse of `to_patches`: (N,P,C·p·p) -> (N,C,S,S)."""
    n, places, _ = patches.shape
    rows = round(places**0.5)
    images = patches.reshape(n, rows, rows, channels, patch, patch).permute(0, 3, 1, 4, 2, 5)
    return images.reshape(n, channels, rows * patch, rows * patch)


def take(patches, visible):
    """The patches (N,P,D) at the places `visible` (N,V) -> (N,V,D)."""
    return patches.gather(1, visible[..., None].expand(-1, -1, patches.shape[-1]))
