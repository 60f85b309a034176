"""Draw the samples in data/samples again, from the full sets: see data/README.md for the command."""

import hashlib

import numpy as np

from helpers import data

PER_CLASS = {"train": 400, "test": 100}
SEED = 2021


def make(name: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    """images uint8 (N, H, W[, 3]) and labels uint8 (N,): PER_CLASS of each class, without repetition.

    Each run of ten holds every class once, in random order, so that prefixes are class-balanced
    and an image's place says nothing about its class.
    """
    x, y = data.load(name, split, source="full")
    # RandomState, not default_rng: NumPy promises that its stream never changes
    random = np.random.RandomState(SEED)
    by_class = [
        random.permutation(np.flatnonzero(y == label))[: PER_CLASS[split]]
        for label in range(len(data.DATASETS[name].classes))
    ]
    chosen = np.concatenate([random.permutation(run) for run in np.stack(by_class, axis=1)])
    images = (x[chosen] * 255).round().byte().permute(0, 2, 3, 1).numpy()
    return images.squeeze(-1) if images.shape[-1] == 1 else images, y[chosen].byte().numpy()


if __name__ == "__main__":
    for name in ("mnist", "fashion_mnist", "cifar10"):
        for split in data.SPLITS:
            path = data.DATA / "samples" / f"{name}_{split}.npz"
            images, labels = make(name, split)
            np.savez_compressed(path, images=images, labels=labels)
            print(hashlib.sha256(path.read_bytes()).hexdigest(), f"{path.stat().st_size:>9}", path.name)
