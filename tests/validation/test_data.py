"""Data sets by name: splits, scales, subsets; files of MNIST, CIFAR and Tiny ImageNet written here, right and wrong."""

import gzip
import pickle
import struct

import numpy as np
import pytest
import torch

from sde_sgd.validation import Split, digits, load, teacher_student

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("name", "shape", "total", "classes"),
    [("digits", (1, 8, 8), 1797, 10), ("breast-cancer", (30,), 569, 2), ("wine", (13,), 178, 3),
     ("diabetes", (10,), 442, None)],
)  # fmt: skip
def test_bundled_sets(name, shape, total, classes):
    split = load(name, seed=3)
    assert split.inputs.shape[1:] == split.test_inputs.shape[1:] == shape
    assert len(split.inputs) + len(split.test_inputs) == total and len(split.test_inputs) == round(0.2 * total)
    assert all(torch.equal(a, b) for a, b in zip(split, load(name, seed=3)))
    assert not torch.equal(split.inputs, load(name, seed=4).inputs)
    if classes:
        assert split.targets.dtype == torch.int64 and sorted(split.targets.unique().tolist()) == list(range(classes))
    else:
        assert split.targets.shape[1:] == (1,) and split.targets.is_floating_point()
        assert abs(float(split.targets.mean())) < 1e-12
    if name != "digits":
        assert torch.allclose(split.inputs.mean(0), torch.zeros(shape, dtype=torch.float64), atol=1e-12)
        assert torch.allclose(split.inputs.std(0, correction=0), torch.ones(shape, dtype=torch.float64))
        assert not torch.allclose(split.test_inputs.mean(0), torch.zeros(shape, dtype=torch.float64), atol=1e-3)


def test_subsets_and_label_noise():
    whole = load("digits", seed=1)
    some = load("digits", seed=1, samples=100)
    assert torch.equal(some.inputs, whole.inputs[:100]) and torch.equal(some.test_inputs, whole.test_inputs)
    noisy = load("digits", seed=1, label_noise=0.25)
    changed = noisy.targets != whole.targets
    assert int(changed.sum()) == round(0.25 * len(whole.targets)) and torch.equal(noisy.inputs, whole.inputs)
    assert torch.equal(noisy.test_targets, whole.test_targets)
    # each of the nine others is as likely: 360 draws, each class' share within 5 standard errors (false alarm 5e-6)
    turns = torch.bincount((noisy.targets - whole.targets)[changed] % 10, minlength=10)
    expected = float(changed.sum()) / 9
    assert turns[0] == 0 and ((turns[1:] - expected).abs() < 5 * np.sqrt(expected)).all()
    few = load("digits", seed=1, samples=1, label_noise=1.0)  # another of the ten, not of the one that is left
    assert 0 <= int(few.targets) < 10 and int(few.targets) != int(whole.targets[0])
    pooled = load("digits", seed=1, size=4)
    assert pooled.inputs.shape[1:] == (1, 4, 4)
    assert torch.allclose(pooled.inputs.mean((1, 2, 3)), whole.inputs.mean((1, 2, 3)))
    assert torch.equal(digits(seed=2).inputs, load("digits", size=7, classes=range(5), seed=2).inputs)


def test_teacher_and_student():
    split = teacher_student(2000, 6, 3, 2, noise=0.5, seed=7)
    clean = teacher_student(2000, 6, 3, 2, noise=0.0, seed=7)
    assert split.inputs.shape == (1600, 6) and split.targets.shape == (1600, 2) and split.test_inputs.shape == (400, 6)
    assert torch.equal(split.test_targets, clean.test_targets)
    # 3200 normal numbers of deviation 0.5: its estimate within 5 of its standard errors 0.5/√6400 (false alarm 6e-7)
    assert float((split.targets - clean.targets).std()) == pytest.approx(0.5, abs=5 * 0.5 / np.sqrt(6400))
    assert load("teacher-student").inputs.shape == (512, 16)


def idx(array):
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return head + array.astype(np.uint8).tobytes()


def write_mnist(folder, zipped=True, train=40, test=20, **changes):
    made = {
        "train-images-idx3-ubyte": idx(RNG.integers(0, 256, (train, 28, 28))),
        "train-labels-idx1-ubyte": idx(np.arange(train) % 10),
        "t10k-images-idx3-ubyte": idx(RNG.integers(0, 256, (test, 28, 28))),
        "t10k-labels-idx1-ubyte": idx(np.arange(test) % 10),
    } | {name.replace("_", "-"): content for name, content in changes.items()}
    for name, content in made.items():
        if zipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name.replace("-idx", ".idx")).write_bytes(content)
    return made


@pytest.mark.parametrize("zipped", [True, False])
def test_mnist(tmp_path, zipped):
    made = write_mnist(tmp_path, zipped)
    split = load("mnist", directory=tmp_path, dtype=torch.float32)
    assert split.inputs.shape == (40, 1, 28, 28) and split.test_inputs.shape == (20, 1, 28, 28)
    raw = np.frombuffer(made["t10k-images-idx3-ubyte"], np.uint8, offset=16).reshape(20, 1, 28, 28)
    assert torch.equal(split.test_inputs, torch.from_numpy(raw.astype(np.float32)) / 255)
    assert sorted(split.targets.tolist()) == sorted((np.arange(40) % 10).tolist())
    small = load("mnist", directory=tmp_path, classes=(3, 8), size=7, samples=5)
    assert small.inputs.shape == (5, 1, 7, 7) and set(small.test_targets.tolist()) == {0, 1}


def write_cifar(folder, fine=False, protocol=2, rows=30):
    def batch(seed):
        rng = np.random.default_rng(seed)
        data = rng.integers(0, 256, (rows, 3072)).astype(np.uint8)
        labels = rng.integers(0, 100 if fine else 10, rows).tolist()
        return {b"data": data, (b"fine_labels" if fine else b"labels"): labels, b"batch_label": b"made here"}

    folder.mkdir(exist_ok=True)
    for k, name in enumerate(["train", "test"] if fine else [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]):
        (folder / name).write_bytes(pickle.dumps(batch(k), protocol))
    return batch


@pytest.mark.parametrize(("name", "fine", "protocol"), [("cifar-10", False, 2), ("cifar-100", True, 4)])
def test_cifar(tmp_path, name, fine, protocol):
    batch = write_cifar(tmp_path / ("cifar-100-python" if fine else "."), fine, protocol)
    split = load(name, directory=tmp_path)
    assert split.inputs.shape == (30 if fine else 150, 3, 32, 32) and split.test_inputs.shape == (30, 3, 32, 32)
    test = batch(1 if fine else 5)
    assert split.test_targets.tolist() == test[b"fine_labels" if fine else b"labels"]
    raw = torch.from_numpy(test[b"data"].reshape(-1, 3, 32, 32).astype(float))
    scale = (raw[0, 1, 2, 3] - raw[0, 1, 4, 5]) / (split.test_inputs[0, 1, 2, 3] - split.test_inputs[0, 1, 4, 5])
    shift = raw[0, 1, 2, 3] - scale * split.test_inputs[0, 1, 2, 3]
    assert torch.allclose(split.test_inputs[:, 1] * scale + shift, raw[:, 1], atol=1e-8)
    assert abs(float(split.inputs[:, 2].mean())) < 1e-12 and float(
        split.inputs[:, 2].std(correction=0)
    ) == pytest.approx(1)


def write_tiny_imagenet(folder, words=("n01", "n03", "n02"), train=4, test=5):
    """Pictures of one grey each that shows class and position, the third without colour channels, the last reddish."""
    from PIL import Image

    def picture(path, colour, mode="RGB"):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new(mode, (64, 64), colour).save(path, "JPEG", quality=95)

    for label, word in enumerate(words):
        for k in range(train):
            grey = 60 * label + 10 * k
            colour = (200, 100, 50) if k == train - 1 else grey if k == 2 else (grey,) * 3
            picture(folder / "train" / word / "images" / f"{word}_{k}.JPEG", colour, "L" if k == 2 else "RGB")
    rows = [f"val_{k}.JPEG\t{words[k % 3]}\t0\t0\t62\t62\n" for k in range(test)]
    for k in range(test):
        picture(folder / "val" / "images" / f"val_{k}.JPEG", (60 * (k % 3), 0, 0))
    (folder / "wnids.txt").write_text("\n".join(words) + "\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(rows))


def test_tiny_imagenet(tmp_path, monkeypatch):
    write_tiny_imagenet(tmp_path / "tiny-imagenet-200")
    split = load("tiny-imagenet", directory=tmp_path, dtype=torch.float32)
    assert split.inputs.shape == (12, 3, 64, 64) and split.test_inputs.shape == (5, 3, 64, 64)
    assert sorted(split.targets.tolist()) == [0] * 4 + [1] * 4 + [2] * 4 and split.test_targets.tolist() == [
        0,
        1,
        2,
        0,
        1,
    ]
    red = split.inputs[:, 0, 5, 7]
    shown = torch.stack([red[split.targets == c].sort().values for c in range(3)])
    greys = (shown - shown[0, 0]) / (shown[0, 1] - shown[0, 0]) * 10
    wanted = torch.tensor([[60 * c, 60 * c + 10, 60 * c + 20, 200] for c in range(3)])
    assert torch.allclose(greys, wanted.float(), atol=3)  # compressed pictures
    reddish = split.inputs[(red > 1.2)]
    assert len(reddish) == 3 and (reddish[:, 0] > reddish[:, 1]).all() and (reddish[:, 1] > reddish[:, 2]).all()
    assert torch.allclose(split.inputs.mean((0, 2, 3)), torch.zeros(3), atol=1e-5)
    decoded = []
    from sde_sgd.validation import _readers

    real = _readers._picture
    monkeypatch.setattr(_readers, "_picture", lambda path: decoded.append(path) or real(path))
    few = load("tiny-imagenet", directory=tmp_path / "tiny-imagenet-200", classes=(2, 0), samples=3, size=8)
    assert few.inputs.shape == (3, 3, 8, 8) and few.test_targets.tolist() == [1, 0, 1]
    assert len(decoded) == 6 and not any("n03" in str(path) for path in decoded)


def test_pictures_that_do_not_fit_are_not_decoded(tmp_path, monkeypatch):
    """17 pictures of 98 KB, twice: 3.3 MB; not of 6 MB, of which half are there, but of 7 MB."""
    from sde_sgd import _memory
    from sde_sgd.validation import _readers

    write_tiny_imagenet(tmp_path)
    monkeypatch.setattr(_memory, "available_bytes", lambda: 7_000_000)
    assert len(load("tiny-imagenet", directory=tmp_path).inputs) == 12
    monkeypatch.setattr(_memory, "available_bytes", lambda: 6_000_000)
    monkeypatch.setattr(_readers, "_picture", None)
    with pytest.raises(ValueError, match=r"17 pictures as float64 needs .* take fewer samples"):
        load("tiny-imagenet", directory=tmp_path)


def test_tiny_imagenet_that_is_not_what_it_says(tmp_path):
    from PIL import Image

    def refused(words):
        with pytest.raises(ValueError, match=words):
            load("tiny-imagenet", directory=tmp_path)

    refused("tiny-imagenet needs wnids.txt")
    write_tiny_imagenet(tmp_path)
    one = tmp_path / "train" / "n03" / "images" / "n03_1.JPEG"
    good = one.read_bytes()
    for content in (b"<html>", good[:200]):
        one.write_bytes(content)
        refused("n03_1.JPEG cannot be read as a picture")
    Image.new("RGB", (32, 64)).save(one, "JPEG")
    refused("n03_1.JPEG is 32 × 64")
    one.write_bytes(good)
    (tmp_path / "wnids.txt").write_text("n01\nn03\nn02\nn09\n")
    refused("n09/images holds no picture")
    (tmp_path / "wnids.txt").write_text("n01\nn03\n")
    refused("val_annotations.txt must name a picture and one of the classes")
    (tmp_path / "val" / "val_annotations.txt").unlink()
    refused("needs val/val_annotations.txt in")


class Evil:
    def __reduce__(self):
        return print, ("a pickle acted",)


def test_files_that_are_not_what_they_say(tmp_path, capsys):
    def refused(name, words):
        with pytest.raises(ValueError, match=words):
            load(name, directory=tmp_path)

    refused("mnist", "needs train-images-idx3-ubyte .* which has none")
    good = write_mnist(tmp_path)
    for name, content, words in (
        ("train_images_idx3_ubyte", good["train-images-idx3-ubyte"][:-1], "says .* and holds"),
        ("train_images_idx3_ubyte", b"<html>not found</html>", "no IDX file"),
        ("train_images_idx3_ubyte", idx(np.zeros((40, 27, 28))), r"\(27, 28\)"),
        ("train_labels_idx1_ubyte", idx(np.arange(39) % 10), "40 labels"),
        ("train_labels_idx1_ubyte", idx(np.full(40, 10)), "from 0 to 9"),
    ):
        write_mnist(tmp_path, **{name: content})
        refused("mnist", words)
    write_mnist(tmp_path)
    whole = (tmp_path / "train-images-idx3-ubyte.gz").read_bytes()
    for content in (b"not zipped", whole[:-9], whole[:12] + bytes(b ^ 0x5A for b in whole[12:40]) + whole[40:]):
        (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(content)
        refused("mnist", "cannot be read")
    write_cifar(tmp_path)
    for content, words in (
        (pickle.dumps(Evil()), "asks for .*print"),
        (b"\x80\x04 broken", "no batch of CIFAR"),
        (pickle.dumps({b"data": np.zeros((30, 3071), np.uint8)}), "3072"),
        (pickle.dumps({b"data": np.zeros((30, 3072), np.uint8), b"labels": [0] * 29}), "30 labels"),
        (pickle.dumps([1, 2]), "no images"),
    ):
        (tmp_path / "data_batch_2").write_bytes(content)
        refused("cifar-10", words)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("minst", {}, "did you mean 'mnist'"), ("mnist", {}, "give directory"),
        ("mnist", {"directory": "/absent"}, "/absent"), ("digits", {"directory": "."}, "comes with scikit-learn"),
        ("mnist", {"directory": ".", "test_fraction": 0.1}, "test set of its own"),
        ("wine", {"size": 3}, "no images"), ("diabetes", {"classes": (0, 1)}, "no classes"),
        ("diabetes", {"label_noise": 0.1}, "no classes"), ("digits", {"label_noise": 1.1}, "label_noise"),
        ("digits", {"samples": 2000}, "samples"), ("wine", {"classes": (0, 3)}, "from 0 to 2"),
        ("digits", {"dtype": torch.int64}, "float64"), ("digits", {"size": 9}, "size"),
    ],
)  # fmt: skip
def test_bad_options(name, options, words):
    with pytest.raises(ValueError, match=words):
        load(name, **options)


def test_a_split_is_four_tensors():
    assert Split._fields == ("inputs", "targets", "test_inputs", "test_targets")


def test_a_device_is_used_or_refused():
    split = teacher_student(inputs=3, samples=12)
    assert split.to("meta").inputs.is_meta and torch.equal(split.to("cpu").inputs, split.inputs)
    for name in ("cuda:99", "nowhere"):
        with pytest.raises(ValueError, match=f"device='{name}' cannot be used here"):
            split.to(name)
