"""helpers.data: the shipped samples, the user's own files, downloads that go wrong, and check_images."""

import gzip
import hashlib
import importlib.util
import io
import re
import socket
import sys
import tarfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pickle import dumps
from threading import Thread

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.io import savemat

from helpers import data, networks
from helpers.data import DataError

SAMPLES = [(name, split) for name in ("mnist", "fashion_mnist", "cifar10") for split in data.SPLITS]
FULL_ROOT = data.data_dir()
HTML = b"<!DOCTYPE html><title>Please log in</title>"


# --- the samples -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name, split", SAMPLES)
def test_sample_is_float_nchw_in_unit_range_with_int64_labels(name, split):
    x, y = data.load(name, split)
    assert x.shape == ({"train": 4000, "test": 1000}[split], *data.DATASETS[name].shape)
    assert x.dtype == torch.float32 and x.is_contiguous() and (x.min(), x.max()) == (0, 1)
    assert y.dtype == torch.int64
    data.check_images(x, y, num_classes=10)


@pytest.mark.parametrize("name, split", SAMPLES)
def test_each_run_of_ten_of_a_sample_holds_every_class_once_and_no_image_comes_twice(name, split):
    x, y = data.load(name, split)
    assert (y.view(-1, 10).sort(dim=1).values == torch.arange(10)).all()
    assert not (y.view(-1, 10) == torch.arange(10)).all()  # the order within a run is random
    assert len(x.flatten(1).unique(dim=0)) == len(x)


def test_samples_have_the_checksums_of_the_readme_and_stay_under_20_mb():
    listed = dict(re.findall(r"`(\w+\.npz)`[^\n]*`([0-9a-f]{64})`", (data.DATA / "README.md").read_text()))
    files = sorted((data.DATA / "samples").iterdir())
    assert {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files} == listed
    assert len(files) == 6 and sum(file.stat().st_size for file in files) < 20e6


def test_nets_of_the_zoo_have_the_checksums_of_the_readme_and_load():
    listed = dict(
        re.findall(r"`(\w+\.safetensors)`[^\n]*`([0-9a-f]{64})`", (data.DATA / "README.md").read_text())
    )
    files = sorted((data.DATA / "zoo").glob("*.safetensors"))
    assert {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files} == listed
    assert all(file.stat().st_size < 2e6 for file in files)
    for file in files:
        if "resnet18_quarter" in file.name:
            networks.build("resnet18", width=0.25).load_state_dict(load_file(file))


@pytest.mark.parametrize("name, split", SAMPLES)
def test_sample_is_made_again_identically(name, split, monkeypatch):
    def absent(*_):
        pytest.skip(f"needs the full {name} in DATA_DIR ({FULL_ROOT})")

    if not FULL_ROOT.exists():
        absent()
    monkeypatch.setattr(data, "download", absent)
    spec = importlib.util.spec_from_file_location("make_samples", data.DATA / "make_samples.py")
    make_samples = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_samples)
    images, labels = make_samples.make(name, split)
    with np.load(data.DATA / "samples" / f"{name}_{split}.npz") as shipped:
        assert np.array_equal(images, shipped["images"]) and np.array_equal(labels, shipped["labels"])


def test_n_takes_the_first_n():
    x, y = data.load("mnist", "test")
    x30, y30 = data.load("mnist", "test", n=30)
    assert torch.equal(x30, x[:30]) and torch.equal(y30, y[:30])


@pytest.mark.parametrize("n", [1001, 0, -1])
def test_n_out_of_range_is_an_error_with_both_numbers(n):
    with pytest.raises(DataError, match=rf"n={n}\b.* has 1000 images"):
        data.load("mnist", "test", n=n)


@pytest.mark.parametrize(
    "args, choices",
    [
        (("minst", "test"), "'minst'.*mnist, fashion_mnist, cifar10, svhn, lisa"),
        (("mnist", "validation"), "'validation'.*train, test"),
        (("mnist", "test", 10, "web"), "'web'.*sample, full"),
    ],
)
def test_unknown_choice_is_an_error_that_names_the_choices(args, choices):
    with pytest.raises(DataError, match=choices):
        data.load(*args)


# --- the user's .npz files -------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path, monkeypatch):
    """An empty DATA_DIR; a download raises."""

    def no_network(urls, path, md5):
        raise AssertionError(f"tried to download {urls}")

    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    monkeypatch.setattr(data, "download", no_network)
    return tmp_path


def some_images(name, n=20):
    random = np.random.RandomState(0)
    return (
        random.randint(0, 256, (n, *data.DATASETS[name].npz_shape), dtype=np.uint8),
        np.arange(n, dtype=np.uint8) % 10,
    )


@pytest.mark.parametrize("name", ["mnist", "cifar10", "svhn", "lisa"])
def test_user_npz_is_read_exactly_and_without_torchvision(name, root, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)  # an import of it would fail
    images, labels = some_images(name)
    np.savez(root / f"{name}_train.npz", images=images, labels=labels)
    x, y = data.load(name, "train", source="full")
    assert np.array_equal((x * 255).round().byte().permute(0, 2, 3, 1).numpy().reshape(images.shape), images)
    assert np.array_equal(y.numpy(), labels)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"images": np.zeros((20, 28, 28), np.uint8)}, r"shape \(20, 28, 28\).*\(N, 32, 32, 3\)"),
        ({"images": np.zeros((20, 3, 32, 32), np.uint8)}, r"shape \(20, 3, 32, 32\).*transpose"),
        ({"images": np.full((20, 32, 32, 3), -0.42, np.float32)}, r"float32 in \[-0.42, -0.42\].*uint8"),
        ({"labels": np.arange(20) % 11}, r"labels lie in 0\.\.10, must lie in 0\.\.9"),
        ({"labels": np.arange(20) % 10 - 1}, r"labels lie in -1\.\.8"),
        ({"labels": np.arange(19) % 10}, r"shape \(19,\).*shape \(20,\)"),
        ({"labels": np.zeros(20)}, "labels are float64"),
        ({"labels": None}, r"\['images'\].*np\.savez_compressed"),
    ],
)
def test_faulty_npz_is_an_error_with_file_value_and_remedy(change, message, root):
    images, labels = some_images("cifar10")
    arrays = {"images": images, "labels": labels} | change
    np.savez(root / "cifar10_test.npz", **{key: a for key, a in arrays.items() if a is not None})
    with pytest.raises(DataError, match=rf"(?s)cifar10_test\.npz.*{message}"):
        data.load("cifar10", "test", source="full")


@pytest.mark.parametrize(
    "content, message",
    [
        (lambda good: good[: len(good) // 2], r"truncated or no \.npz file \(\d[\d,]* bytes"),
        (lambda good: HTML, "43 bytes, an HTML page"),
    ],
)
def test_damaged_npz_is_an_error_with_file_value_and_remedy(content, message, root):
    images, labels = some_images("cifar10")
    file = root / "cifar10_test.npz"
    np.savez(file, images=images, labels=labels)
    file.write_bytes(content(file.read_bytes()))
    with pytest.raises(DataError, match=rf"cifar10_test\.npz.*{message}.*put a whole copy"):
        data.load("cifar10", "test", source="full")


def test_a_data_set_without_a_loader_asks_for_the_npz(root, monkeypatch):
    monkeypatch.setitem(data.DATASETS, "signs", data.Dataset(shape=(3, 32, 32), classes=("stop", "go")))
    with pytest.raises(DataError, match=r"(?s)signs_test\.npz is missing.*images \(uint8, Nx32x32x3\)"):
        data.load("signs", "test", source="full")
    images, labels = some_images("cifar10")
    np.savez(root / "signs_test.npz", images=images, labels=labels % 2)
    assert data.load("signs", "test", source="full")[0].shape == (20, 3, 32, 32)


# --- SVHN and LISA, only ever the user's ------------------------------------------------------------


@pytest.mark.parametrize(
    "name, needed",
    [
        (
            "svhn",
            (
                "svhn_train.npz",
                "Nx32x32x3",
                "train_32x32.mat and test_32x32.mat",
                "Netzer et al. 2011",
                "ufldl.stanford.edu/housenumbers",
                "non-commercial",
            ),
        ),
        (
            "lisa",
            (
                "lisa_train.npz",
                "Nx32x32x3",
                "UC San Diego",
                "Møgelmose et al. 2012",
                "16 classes",
                "Wu, Tong & Vorobeychik",
            ),
        ),
    ],
)
@pytest.mark.parametrize(
    "source, told", [("full", "{}_test.npz is missing"), ("sample", "{} has no sample: use source='full'")]
)
def test_without_the_users_files_the_error_says_where_from_what_and_where_to(
    name, needed, source, told, root
):
    with pytest.raises(DataError) as error:
        data.load(name, "test", source=source)
    for part in (told.format(name), str(root), "DATA_DIR", "data/README.md", *needed):
        assert part in str(error.value)


def test_an_npz_may_hold_more_than_images_and_labels(root):
    images, _ = some_images("lisa")
    labels = np.arange(20, dtype=np.uint8) % 16
    names = np.array(data.DATASETS["lisa"].classes)
    np.savez(root / "lisa_test.npz", images=images, labels=labels, class_names=names, filenames=names[labels])
    x, y = data.load("lisa", "test", source="full")
    assert x.shape == (20, 3, 32, 32) and np.array_equal(y.numpy(), labels)


@pytest.fixture
def mats(root):
    """SVHN's .mat files in DATA_DIR, 20 images in both; returns the images and their true digits."""
    images, labels = some_images("svhn")
    for split in data.SPLITS:
        savemat(
            root / f"{split}_32x32.mat",
            {"X": images.transpose(1, 2, 3, 0), "y": np.where(labels == 0, 10, labels)[:, None]},
            do_compression=True,
        )
    return images, labels


@pytest.mark.parametrize("split", data.SPLITS)
def test_official_mat_of_svhn_is_read_exactly_with_ten_as_zero(split, mats):
    images, labels = mats
    x, y = data.load("svhn", split, source="full")
    assert np.array_equal((x * 255).round().byte().permute(0, 2, 3, 1).numpy(), images)
    assert y.dtype == torch.int64 and np.array_equal(y.numpy(), labels)


@pytest.mark.parametrize(
    "content, message",
    [
        (lambda good: good[: len(good) // 2], r"truncated or .* \(\d[\d,]* bytes"),
        (lambda good: HTML, "43 bytes, an HTML page"),
        (lambda good: b"", "0 bytes"),
        (lambda good: good[:200] + bytes(len(good) - 200), "truncated"),
    ],
)
def test_damaged_mat_is_an_error_with_file_value_and_remedy(content, message, mats, root):
    file = root / "test_32x32.mat"
    file.write_bytes(content(file.read_bytes()))
    with pytest.raises(DataError, match=rf"test_32x32\.mat.*{message}.*put a whole copy"):
        data.load("svhn", "test", source="full")


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"X": np.zeros((32, 32, 3, 2), np.uint8)}, "not SVHN's .mat file"),
        ({"X": np.zeros((2, 32, 32, 3), np.uint8), "y": np.ones((2, 1))}, r"shape \(3, 2, 32, 32\)"),
        ({"X": np.zeros((32, 32, 3, 2), np.uint8), "y": np.array([[11], [1]])}, r"labels lie in 1\.\.11"),
    ],
)
def test_faulty_mat_is_an_error_with_file_and_value(arrays, message, root):
    savemat(root / "test_32x32.mat", arrays)
    with pytest.raises(DataError, match=rf"test_32x32\.mat.*{message}"):
        data.load("svhn", "test", source="full")


def test_available_tells_what_load_finds_without_a_download(root, mats):
    assert [data.available(name) for name in data.DATASETS] == [False, False, False, True, False]
    (root / "train_32x32.mat").unlink()
    assert not data.available("svhn")  # the test split alone is not enough
    for name in ("svhn", "cifar10"):
        images, labels = some_images(name)
        for split in data.SPLITS:
            np.savez(root / f"{name}_{split}.npz", images=images, labels=labels)
        assert data.available(name)


def test_available_names_the_choices():
    with pytest.raises(DataError, match="'signs'.*svhn, lisa"):
        data.available("signs")


@pytest.mark.parametrize("name", ["svhn", "lisa"])
def test_the_users_real_files_hold_every_class_in_both_splits(name):
    if not data.available(name):
        pytest.skip(f"needs {name} in DATA_DIR ({FULL_ROOT})")
    for split in data.SPLITS:
        x, y = data.load(name, split, source="full")
        data.check_images(x, y)
        assert y.unique().tolist() == list(range(len(data.DATASETS[name].classes)))


def test_lisas_classes_are_in_the_order_of_the_users_real_file():
    if not data.available("lisa"):
        pytest.skip(f"needs lisa in DATA_DIR ({FULL_ROOT})")
    with np.load(FULL_ROOT / "lisa_train.npz") as npz:
        if "class_names" not in npz:
            pytest.skip("lisa_train.npz holds no class_names")
        assert tuple(npz["class_names"]) == data.DATASETS["lisa"].classes


# --- official files --------------------------------------------------------------------------------


def idx(array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return header + array.tobytes()


def md5(content):
    return hashlib.md5(content).hexdigest()


@pytest.fixture
def tiny_mnist(monkeypatch):
    """MNIST of 20 + 20 images in the official format: {file name: content}, known to data and torchvision."""
    from torchvision.datasets import MNIST

    images, labels = some_images("mnist", 40)
    files = {
        "train-images-idx3-ubyte": idx(images[:20]),
        "train-labels-idx1-ubyte": idx(labels[:20]),
        "t10k-images-idx3-ubyte": idx(images[20:]),
        "t10k-labels-idx1-ubyte": idx(labels[20:]),
    }
    archives = {f"{name}.gz": gzip.compress(content, mtime=0) for name, content in files.items()}
    monkeypatch.setattr(MNIST, "resources", [(name, md5(gz)) for name, gz in archives.items()])
    monkeypatch.setitem(
        data.DATASETS,
        "mnist",
        replace(data.DATASETS["mnist"], mirrors=(), md5s=tuple(md5(content) for content in files.values())),
    )
    return files | archives


def assert_is_tiny_mnist(split):
    images, labels = some_images("mnist", 40)
    part = slice(20) if split == "train" else slice(20, 40)
    x, y = data.load("mnist", split, source="full")
    assert np.array_equal((x * 255).round().byte()[:, 0].numpy(), images[part])
    assert np.array_equal(y.numpy(), labels[part])


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_files_of_the_user_need_no_network(suffix, root, tiny_mnist):
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, content in tiny_mnist.items():
        if name.endswith("ubyte" + suffix):
            (raw / name).write_bytes(content)
    assert data.available("mnist")
    assert_is_tiny_mnist("train")
    assert_is_tiny_mnist("test")


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("train-images-idx3-ubyte", lambda good: good[:-1], r"15,695 bytes with MD5 .* instead of .*Delete"),
        ("train-images-idx3-ubyte", lambda good: HTML, "43 bytes, an HTML page"),
        (
            "train-labels-idx1-ubyte",
            lambda good: good[::-1],
            "28 bytes with MD5",
        ),  # right size, other content
        ("train-images-idx3-ubyte.gz", lambda good: good[:999], r"unpacked \(999 bytes; .*delete it"),
    ],
)
def test_damaged_official_file_is_an_error_with_file_value_and_remedy(
    name, content, message, root, tiny_mnist
):
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for good in tiny_mnist:
        if good.endswith("ubyte") and good != name.removesuffix(".gz"):
            (raw / good).write_bytes(tiny_mnist[good])
    (raw / name).write_bytes(content(tiny_mnist[name]))
    with pytest.raises(DataError, match=rf"{name} .*{message}"):
        data.load("mnist", "train", source="full")


# --- downloads, from a real server on this machine -------------------------------------------------


class Mirror(BaseHTTPRequestHandler):
    """Serves /<behaviour>/<file name> out of server.files; keeps the behaviours in server.asked."""

    def do_GET(self):
        if self.headers["Method"] == "HEAD":  # torchvision first looks where it is redirected to
            self.send_response(200)
            return self.end_headers()
        _, behaviour, name = self.path.split("/")
        body = self.server.files[name]
        first = behaviour not in self.server.asked
        self.server.asked.append(behaviour)
        if behaviour == "login":
            body = HTML
        elif behaviour == "wrong":
            body = bytes(len(body))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if behaviour == "breaks" and first else body)

    def log_message(self, *args):
        pass


@pytest.fixture
def mirror(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Mirror)
    server.files, server.asked = {}, []
    server.address = f"http://127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


BODY = np.random.RandomState(1).bytes(300_000)


@pytest.mark.parametrize(
    "behaviours, asked",
    [
        (["good"], ["good"]),
        (["breaks"], ["breaks", "breaks"]),
        (["breaks", "good"], ["breaks", "good"]),
        (["login", "good"], ["login", "good"]),
        (["wrong", "good"], ["wrong", "good"]),
    ],
)
def test_a_download_that_goes_wrong_is_tried_elsewhere_and_once_more(behaviours, asked, mirror, tmp_path):
    mirror.files["set.bin"] = BODY
    (tmp_path / "set.bin.part").write_bytes(b"left over")
    data.download([f"{mirror.address}/{b}/set.bin" for b in behaviours], tmp_path / "set.bin", md5(BODY))
    assert (tmp_path / "set.bin").read_bytes() == BODY
    assert list(tmp_path.iterdir()) == [tmp_path / "set.bin"] and mirror.asked == asked


def test_a_server_that_falls_silent_is_given_up(mirror, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "TIMEOUT", 0.1)
    mirror.files["set.bin"] = BODY
    before = socket.getdefaulttimeout()
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes the connection and never answers
        urls = [f"http://127.0.0.1:{silent.getsockname()[1]}/set.bin", f"{mirror.address}/good/set.bin"]
        data.download(urls, tmp_path / "set.bin", md5(BODY))
    assert (tmp_path / "set.bin").read_bytes() == BODY and socket.getdefaulttimeout() == before


def test_failed_download_names_each_mirror_with_its_reason_and_leaves_no_file(mirror, tmp_path):
    mirror.files["set.bin"] = BODY
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        dead = f"http://127.0.0.1:{unused.getsockname()[1]}/set.bin"
        urls = [dead, f"{mirror.address}/login/set.bin", f"{mirror.address}/wrong/set.bin"]
        with pytest.raises(DataError) as error:
            data.download(urls, tmp_path / "set.bin", md5(BODY))
    reasons = str(error.value).splitlines()[1:]
    for url, reason, line in zip(
        urls, ["refused", "HTML page", f"MD5 {md5(bytes(len(BODY)))}"], reasons, strict=True
    ):
        assert url in line and reason in line
    assert not (tmp_path / "set.bin").exists()


def test_full_mnist_is_downloaded_through_a_break(mirror, tiny_mnist, tmp_path, monkeypatch):
    from torchvision.datasets import MNIST

    monkeypatch.setenv("DATA_DIR", str(tmp_path / "new" / "folder"))
    monkeypatch.setattr(MNIST, "mirrors", [f"{mirror.address}/breaks/"])
    mirror.files.update(tiny_mnist)
    assert_is_tiny_mnist("train")
    assert mirror.asked == ["breaks"] * 5  # four files, the first of them twice
    mirror.files.clear()
    assert_is_tiny_mnist("test")  # nothing is asked again


def test_full_cifar10_is_downloaded_unpacked_and_read(mirror, tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR10

    images, labels = some_images("cifar10", 60)
    batches = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    content = {"batches.meta": {"label_names": list(data.DATASETS["cifar10"].classes)}}
    for i, batch in enumerate(batches):
        part = slice(10 * i, 10 * i + 10)
        rows = images[part].transpose(0, 3, 1, 2).reshape(10, 3072)
        content[batch] = {"data": rows, "labels": labels[part].tolist()}
    content = {name: dumps(value) for name, value in content.items()}
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for name, pickled in content.items():
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(pickled)
            tar.addfile(member, io.BytesIO(pickled))
    mirror.files["cifar-10-python.tar.gz"] = archive.getvalue()
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    monkeypatch.setitem(
        data.DATASETS, "cifar10", replace(data.DATASETS["cifar10"], mirrors=(f"{mirror.address}/login/",))
    )
    monkeypatch.setattr(CIFAR10, "url", f"{mirror.address}/breaks/cifar-10-python.tar.gz")
    monkeypatch.setattr(CIFAR10, "tgz_md5", md5(archive.getvalue()))
    monkeypatch.setattr(CIFAR10, "train_list", [[batch, md5(content[batch])] for batch in batches[:5]])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", md5(content["test_batch"])]])
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": md5(content["batches.meta"])})

    x, y = data.load("cifar10", "train", source="full")
    assert np.array_equal((x * 255).round().byte().permute(0, 2, 3, 1).numpy(), images[:50])
    assert np.array_equal(y.numpy(), labels[:50])

    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(content["test_batch"] + b"changed")
    with pytest.raises(DataError, match=r"test_batch .*MD5 .*Delete it"):
        data.load("cifar10", "test", source="full")


def test_without_network_the_error_says_what_to_put_where(mirror, tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR10

    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    monkeypatch.setitem(data.DATASETS, "cifar10", replace(data.DATASETS["cifar10"], mirrors=()))
    monkeypatch.setattr(CIFAR10, "url", f"{mirror.address}/login/cifar-10-python.tar.gz")
    mirror.files["cifar-10-python.tar.gz"] = b""
    with pytest.raises(DataError) as error:
        data.load("cifar10", "test", source="full")
    for needed in (
        str(tmp_path),
        "DATA_DIR",
        "cifar10_train.npz",
        "Nx32x32x3",
        "an HTML page",
        "cifar-10-python.tar.gz  (MD5 c58f30108f718f92721af3b95e74349a)",
        "source='sample'",
    ):
        assert needed in str(error.value)


# --- check_images ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_check_images_accepts_the_whole_range(dtype):
    x = torch.linspace(0, 1, 2 * 3 * 4 * 4, dtype=dtype).view(2, 3, 4, 4).requires_grad_()
    data.check_images(x, torch.tensor([0, 9]), num_classes=10)


GOOD = torch.full((2, 3, 4, 4), 0.5)


@pytest.mark.parametrize(
    "x, message",
    [
        (GOOD * 6.5 - 0.42, r"\[2\.83, 2\.83\].*undo the normalisation"),
        (GOOD - 0.5 - 1e-6, r"\[-1e-06, -1e-06\]"),
        (GOOD / 0, r"\[inf, inf\]"),
        (torch.where(torch.arange(96).view_as(GOOD) == 7, torch.nan, GOOD), "1 values are NaN"),
        ((GOOD * 255).byte(), "torch.uint8"),
        (GOOD.numpy(), "float32.*torch.as_tensor"),
        (GOOD[0], r"\(3, 4, 4\).*x\[None\]"),
        (GOOD.permute(0, 2, 3, 1), r"\(2, 4, 4, 3\).*permute"),
        (GOOD[:0], r"\(0, 3, 4, 4\)"),
    ],
)
def test_check_images_names_the_fault_of_images(x, message):
    with pytest.raises(DataError, match=message):
        data.check_images(x)


@pytest.mark.parametrize(
    "y, message",
    [
        (torch.tensor([0, 10]), r"0\.\.9, got 0\.\.10"),
        (torch.tensor([-1, 3]), r"0\.\.9, got -1\.\.3"),
        (torch.tensor([0.0, 1.0]), r"int64 of shape \(2,\), got torch.float32"),
        (torch.eye(2, 10).long(), r"of shape \(2, 10\).*not one-hot"),
        (torch.tensor([1]), r"shape \(2,\), got torch.int64 of shape \(1,\)"),
    ],
)
def test_check_images_names_the_fault_of_labels(y, message):
    with pytest.raises(DataError, match=message):
        data.check_images(GOOD, y, num_classes=10)
