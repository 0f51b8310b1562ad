"""Files of MNIST, CIFAR and Tiny ImageNet as NumPy arrays, refused unless they are what their names say."""

from __future__ import annotations

import gzip
import io
import math
import pickle
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


class Pictures:
    """Files of pictures, 64 × 64 in colour, decoded when they are taken: `self[positions]` is (n, 3, 64, 64), bytes."""

    def __init__(self, paths: Sequence[Path]):
        self._paths = paths

    def __len__(self) -> int:
        return len(self._paths)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self), 3, 64, 64

    def __getitem__(self, positions: NDArray[np.integer]) -> NDArray[np.uint8]:
        images = np.empty((len(positions), 3, 64, 64), np.uint8)
        for image, position in zip(images, positions):
            image[:] = _picture(self._paths[position])
        return images


Images = NDArray[np.uint8] | Pictures
Arrays = tuple[Images, NDArray[np.int64], Images, NDArray[np.int64]]

_CIFAR = {
    "cifar-10": ("cifar-10-batches-py", [f"data_batch_{k}" for k in range(1, 6)], "test_batch", b"labels", 10),
    "cifar-100": ("cifar-100-python", ["train"], "test", b"fine_labels", 100),
}
# What a pickle of arrays needs, under the names of NumPy 1 and 2, and nothing that acts.
_ALLOWED = {
    *((f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")),
    *(("numpy", name) for name in ("ndarray", "dtype")),
    ("_codecs", "encode"),
}


def mnist(directory) -> Arrays:
    """Images (n, 1, 28, 28) and labels to train on, and to test, from the four IDX files."""
    parts: list[NDArray] = []
    for prefix in ("train", "t10k"):
        images = _idx(_found(directory, "mnist", _idx_names(f"{prefix}-images", 3)), 3)
        labels = _idx(_found(directory, "mnist", _idx_names(f"{prefix}-labels", 1)), 1)
        if images.shape[1:] != (28, 28):
            raise ValueError(f"{prefix}-images holds images of {images.shape[1:]}, and MNIST's are (28, 28)")
        parts += [images[:, None], _labels(labels, len(images), 10, f"{prefix}-labels")]
    return parts[0], parts[1], parts[2], parts[3]


def cifar(directory, name: str) -> Arrays:
    """Images (n, 3, 32, 32) and labels to train on, and to test, from the files of the "python version"."""
    folder, training, test, key, classes = _CIFAR[name]
    parts: list[NDArray] = []
    for files in (training, [test]):
        batches = [_batch(_found(directory, name, [file, f"{folder}/{file}"]), key, classes) for file in files]
        parts += [np.concatenate([images for images, _ in batches]), np.concatenate([labels for _, labels in batches])]
    return parts[0], parts[1], parts[2], parts[3]


def tiny_imagenet(directory) -> Arrays:
    """Pictures and labels to train on, and those of the validation set to test; labels count the lines of wnids.txt."""
    name = "tiny-imagenet"
    root = _found(directory, name, ["wnids.txt", "tiny-imagenet-200/wnids.txt"]).parent
    classes = {line: label for label, line in enumerate((root / "wnids.txt").read_text("utf-8").split())}
    paths: list[Path] = []
    labels: list[int] = []
    for word, label in classes.items():
        found = sorted((root / "train" / word / "images").glob("*.JPEG"))
        if not found:
            raise ValueError(
                f"{root}/train/{word}/images holds no picture, and wnids.txt lists {word}; unpack it again"
            )
        paths += found
        labels += [label] * len(found)
    table = _found(root, name, ["val/val_annotations.txt"])
    rows = [line.split("\t")[:2] for line in table.read_text("utf-8").splitlines() if line.strip()]
    if not rows or any(len(row) < 2 or row[1] not in classes for row in rows):
        raise ValueError(f"{table} must name a picture and one of the classes of wnids.txt in each line")
    test = Pictures([root / "val" / "images" / file for file, _ in rows])
    return Pictures(paths), np.array(labels), test, np.array([classes[word] for _, word in rows])


def _picture(path: Path) -> NDArray[np.uint8]:
    """Channels first; grey ones in three equal channels."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError) as fault:  # what Pillow raises for broken files
        raise ValueError(f"{path} cannot be read as a picture: {fault}") from None
    if pixels.shape != (64, 64, 3):
        raise ValueError(f"{path} is {pixels.shape[1]} × {pixels.shape[0]}, and Tiny ImageNet's pictures are 64 × 64")
    return pixels.transpose(2, 0, 1)


def _found(directory, name: str, names: list[str]) -> Path:
    """The first of the names that is a file in the folder."""
    if directory is None:
        raise ValueError(f"{name} is read from files: give directory, the folder that holds {names[0]}")
    folder = Path(directory).expanduser()
    for file in names:
        if (folder / file).is_file():
            return folder / file
    others = f" (or {', '.join(names[1:])})" if names[1:] else ""
    raise ValueError(f"{name} needs {names[0]}{others} in {folder}, which has none of them")


def _idx_names(stem: str, dimensions: int) -> list[str]:
    plain = [f"{stem}-idx{dimensions}-ubyte", f"{stem}.idx{dimensions}-ubyte"]
    return [*plain, *(f"{file}.gz" for file in plain)]


def _idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """LeCun's format: 0, 0, the type (8: bytes), the number of dimensions, their sizes (big-endian), the data."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as fault:
        raise ValueError(f"{path} cannot be read: {fault}") from None
    head = 4 + 4 * dimensions
    if len(content) < head or content[:4] != bytes((0, 0, 8, dimensions)):
        raise ValueError(f"{path} is no IDX file of bytes in {dimensions} dimensions; fetch it again")
    shape = tuple(np.frombuffer(content, ">u4", dimensions, 4).astype(int).tolist())
    if len(content) != head + math.prod(shape) or not shape[0]:
        raise ValueError(f"{path} says {shape} and holds {len(content) - head} bytes; fetch it again")
    return np.frombuffer(content, np.uint8, offset=head).reshape(shape).copy()  # writable, as torch wants it


class _Arrays(pickle.Unpickler):
    """Reads arrays, tables, text and numbers, and refuses anything else a pickle may ask for."""

    def find_class(self, module: str, name: str):
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which data has no need of")
        return super().find_class(module, name)


def _batch(path: Path, key: bytes, classes: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    try:
        table = _Arrays(io.BytesIO(path.read_bytes()), encoding="bytes").load()
    except Exception as fault:  # a broken pickle raises whatever its bytes lead to
        raise ValueError(f"{path} is no batch of CIFAR's python version: {fault}") from None
    data = table.get(b"data") if isinstance(table, dict) else None
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
        raise ValueError(f"{path} holds no images: its 'data' must be bytes of shape (n, 3072)")
    labels = _labels(np.asarray(table.get(key, [])), len(data), classes, str(path))
    return data.reshape(-1, 3, 32, 32), labels


def _labels(labels: NDArray, count: int, classes: int, where: str) -> NDArray[np.int64]:
    whole = labels.ndim == 1 and len(labels) == count and np.issubdtype(labels.dtype, np.integer)
    if not whole or (count and not 0 <= labels.min() <= labels.max() < classes):
        raise ValueError(f"{where} must hold {count} labels from 0 to {classes - 1}, one per image")
    return labels.astype(np.int64)
