"""helpers.attacks.stickers: where a sticker may be, with our own masks and with the user's."""

import numpy as np
import pytest
import torch

from helpers.attacks import stickers
from helpers.attacks.physical import rp2


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    """An empty DATA_DIR: our own masks."""
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def users(root):
    """Five masks of the user's, the k-th a single row; put there by calling it, some arrays changed."""

    def put(**changes):
        rows = {name: np.zeros((32, 32), np.uint8) for name in stickers.ARRAYS}
        for k, rows_of in enumerate(rows.values()):
            rows_of[k] = 1
        np.savez(root / "rp2_masks.npz", unused=np.ones(3), **rows | changes)
        return rows

    return put


@pytest.mark.parametrize("size", stickers.SIZES)
@pytest.mark.parametrize("name", stickers.NAMES)
def test_our_masks_are_zeros_and_ones_over_a_few_percent_of_the_image_and_none_at_its_rim(name, size):
    mask = stickers.mask(name, size)
    assert mask.shape == (1, 1, size, size) and mask.dtype == torch.float32
    assert set(mask.flatten().tolist()) == {0, 1}
    assert 0.025 < mask.mean() < 0.065
    assert mask[..., 5:-5, 5:-5].sum() == mask.sum()


@pytest.mark.parametrize("size", stickers.SIZES)
def test_our_masks_are_different_places(size):
    masks = torch.cat([stickers.mask(name, size) for name in stickers.NAMES]).flatten(1)
    shared = masks @ masks.T
    shared.fill_diagonal_(0)
    assert (shared <= masks.sum(1) / 2).all()


def test_the_users_masks_are_taken_where_they_are_and_only_at_their_size(users):
    ours = {size: stickers.mask("mask2", size) for size in stickers.SIZES}
    rows = users()
    for name, array in zip(stickers.NAMES, stickers.ARRAYS, strict=True):
        assert np.array_equal(stickers.mask(name)[0, 0].numpy(), rows[array])
    assert not torch.equal(stickers.mask("mask2"), ours[32])
    assert torch.equal(stickers.mask("mask2", 28), ours[28])


def test_origin_says_whose_masks_and_changes_with_any_pixel(users):
    ours, small = stickers.origin(), stickers.origin(28)
    users()
    theirs = stickers.origin()
    users(octagon=np.eye(32, dtype=np.uint8))
    assert len({ours, small, theirs, stickers.origin()}) == 4
    assert ours.startswith("our own masks") and theirs.startswith("the masks in rp2_masks.npz")
    assert stickers.origin(28) == small


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((28, 28), np.uint8),
        np.zeros((32, 32), np.uint8),
        np.eye(32, dtype=np.uint8) * 255,
        np.eye(32)[None],
    ],
)
def test_a_users_mask_that_is_none_is_an_error_with_file_array_and_remedy(wrong, users):
    users(maskdone5=wrong)
    with pytest.raises(ValueError, match=r"rp2_masks\.npz: maskdone5 has shape .* delete the file"):
        stickers.mask("mask3")


@pytest.mark.parametrize(
    "args, message",
    [
        (("mask6",), "'mask6'.*mask1, mask2, mask3, mask4, mask5"),
        (("mask1", 64), "28 or 32, got 64"),
    ],
)
def test_unknown_name_or_size_is_an_error_with_the_choices(args, message):
    with pytest.raises(ValueError, match=message):
        stickers.mask(*args)


def test_rp2_changes_pixels_under_a_mask_only(lenet, digits):
    x, y = digits[0][:4], digits[1][:4]
    mask = stickers.mask("mask1", 28).to(x.device)
    changed = rp2(lenet, x, y, targeted=False, mask=mask, steps=3) != x
    assert changed.any() and not changed[(mask == 0).expand_as(x)].any()
