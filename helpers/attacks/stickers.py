"""Where a sticker may be: the masks of the RP2 attack on traffic signs (ADD, Fig. 4(a) and 13).

ADD attacks with five masks that it shows but does not publish. Those of Eykholt et al. 2018 and of Wu,
Tong & Vorobeychik 2020, whose attack it uses, belong to their authors: five of them are used if the user
has put them into `data_dir()` (data/README.md says how), else five of our own.
"""

import hashlib
from pathlib import Path

import torch

from helpers import data

NAMES = ("mask1", "mask2", "mask3", "mask4", "mask5")
SIZES = (28, 32)

# The arrays of rp2_masks.npz in the order of NAMES, uint8 (32, 32) of 0 and 1: Eykholt et al.'s rectangles,
# three blobs of Wu et al.'s, and the whole face of a stop sign, some four fifths of the image.
ARRAYS = ("mask_l1loss_uniform_rectangles", "maskdone4", "maskdone5", "maskdone6", "octagon")


def mask(name: str, size: int = 32) -> torch.Tensor:
    """A mask as `rp2` wants it: float32 (1, 1, size, size), 1 where the sticker may be, else 0.

    name: one of NAMES. size: 32, or 28 for digits; rp2_masks.npz, if there, is used for 32 only.
    Raises ValueError for another name or size, and for a damaged rp2_masks.npz.
    """
    if name not in NAMES:
        raise ValueError(f"unknown mask {name!r}: choose one of {', '.join(NAMES)}")
    if size not in SIZES:
        raise ValueError(f"a mask has size 28 or 32, got {size}")
    file = _users_file()
    drawn = _read(file, name) if size == 32 and file.exists() else _draw(name, size)
    return drawn.float()[None, None]


def origin(size: int = 32) -> str:
    """Which masks `mask` gives, for the reader and for the key of whatever was made with them.

    The hexadecimal digits change with any pixel of the five.
    """
    digest = hashlib.sha256(
        b"".join(mask(name, size).byte().numpy().tobytes() for name in NAMES)
    ).hexdigest()[:12]
    whose = f"the masks in {_users_file().name}" if size == 32 and _users_file().exists() else "our own masks"
    return f"{whose} ({digest})"


def _users_file() -> Path:
    return data.data_dir() / "rp2_masks.npz"


def _read(file: Path, name: str) -> torch.Tensor:
    array = ARRAYS[NAMES.index(name)]
    (values,) = data.read_npz(file, array)
    found = set(values.ravel().tolist())
    if values.shape != (32, 32) or found != {0, 1}:
        raise data.DataError(
            f"{file}: {array} has shape {values.shape} and {len(found)} different values, must be "
            "(32, 32) of 0 and 1, some of each: make it again or delete the file"
        )
    return torch.from_numpy(values)


def _draw(name: str, size: int) -> torch.Tensor:
    """Our own masks, each a few percent of the image, the area of a real sticker. (size, size), bool."""
    middles = (torch.arange(size) + 0.5) / size * 2 - 1  # of the pixels; the image is [-1, 1] x [-1, 1]
    v, u = torch.meshgrid(middles, middles, indexing="ij")  # down, right
    # Equal on the sides of an octagon, whose inner circle has this radius.
    octagonal = torch.maximum(torch.maximum(u.abs(), v.abs()), (u.abs() + v.abs()) / 2**0.5)
    return {
        "mask1": (u.abs() < 0.4) & ((v.abs() - 0.45).abs() < 0.07),  # bars above and below the word
        "mask2": ((u.abs() - 0.4).abs() < 0.1) & ((v.abs() - 0.4).abs() < 0.1),  # four squares
        "mask3": (u + 0.3) ** 2 + (v + 0.3) ** 2 < 0.22**2,  # a disc, up left
        "mask4": ((u - v).abs() < 0.1) & ((u + v).abs() < 0.9),  # a stripe across
        "mask5": (octagonal - 0.4).abs() < 0.035,  # a ring
    }[name]
