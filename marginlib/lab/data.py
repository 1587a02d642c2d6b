"""Sets of images as plain tensors on one device.

A set is downloaded once and kept as one array file, ``$MARGINLIB_DATA/<name>.npz``; where
that variable is not set, in the user's cache folder.  The file holds ``train_images`` and
``test_images`` (n, h, w, c) uint8, ``train_labels`` and ``test_labels`` (n,) int64,
``label_names``, and ``source``, a line that goes into every record made from it.

A small set travels inside the package, so that everything here runs with no network::

    load("pocket")          3,300 images of Fashion-MNIST, embedded
    load("fashion-mnist")   also mnist, cifar10, cifar100, svhn, omniglot: downloaded on first use
    load("my/images")       a folder of class folders, as torchvision's ImageFolder reads it
    load("imagenet")        the same, from ``$MARGINLIB_DATA/imagenet``
"""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

POCKET = Path(__file__).with_name("pocket.npz")
DOWNLOADS = {
    "mnist": "MNIST",
    "fashion-mnist": "FashionMNIST",
    "cifar10": "CIFAR10",
    "cifar100": "CIFAR100",
    "svhn": "SVHN",
    "omniglot": "Omniglot",
}


@dataclass(frozen=True, eq=False)
class Data:
    """Training and test images with their labels, and where they come from."""

    name: str
    source: str
    label_names: tuple[str, ...]
    train_images: UInt8[Tensor, "n c h w"]
    train_labels: Int[Tensor, " n"]
    test_images: UInt8[Tensor, "m c h w"]
    test_labels: Int[Tensor, " m"]

    @property
    def classes(self) -> int:
        """How many classes the labels may name."""
        return len(self.label_names)

    @property
    def channels(self) -> int:
        """1 for grey images, 3 for colour."""
        return self.train_images.shape[1]

    @property
    def size(self) -> int:
        """Height and width of an image, in pixels."""
        return self.train_images.shape[2]

    def to(self, device: torch.device | str) -> "Data":
        """Return the same set on ``device``."""
        tensors = ("train_images", "train_labels", "test_images", "test_labels")
        return replace(self, **{name: getattr(self, name).to(device) for name in tensors})

    def fewer(
        self, per_class: int | None = None, *, fraction: float | None = None, seed: int = 0
    ) -> "Data":
        """Keep some of the training images, drawn class by class; the test set stays whole.

        Args:
            per_class: how many images each class keeps, or
            fraction: which share of its images each class keeps (rounded, at least one).
            seed: decides which.

        Raises:
            ValueError: unless exactly one of the two is given, or if a class has too few.
        """
        if (per_class is None) == (fraction is None):
            raise ValueError("give either per_class or fraction")
        kept, _ = self._drawn(per_class, fraction, seed)
        return self._train(kept)

    def only(self, classes: int, seed: int = 0) -> "Data":
        """Keep ``classes`` of the classes, drawn by ``seed``; training and test images alike.

        The classes keep their order and are counted anew, from 0.

        Raises:
            ValueError: unless there are that many, and at least two.
        """
        if not 2 <= classes <= self.classes:
            raise ValueError(
                f"{self.name} has {self.classes} classes; expected 2 to that many, got {classes}"
            )
        draw = torch.Generator().manual_seed(seed)
        kept = torch.randperm(self.classes, generator=draw)[:classes].sort().values
        place = torch.full((self.classes,), -1)
        place[kept] = torch.arange(classes)
        names = tuple(self.label_names[label] for label in kept.tolist())
        parts = {}
        for split in ("train", "test"):
            images, labels = getattr(self, f"{split}_images"), getattr(self, f"{split}_labels")
            labels = place.to(labels.device)[labels]
            (rows,) = torch.where(labels >= 0)
            parts |= {f"{split}_images": images[rows], f"{split}_labels": labels[rows]}
        return replace(self, label_names=names, **parts)

    def held_out(self, fraction: float, seed: int = 0) -> "Data":
        """Set ``fraction`` of the training images apart, to choose by.

        Returns a set whose training part is the rest and whose *test* part is what was set
        apart.  The real test images are not in it, so no choice can look at them.
        """
        apart, rest = self._drawn(None, fraction, seed)
        images, labels = self.train_images[apart], self.train_labels[apart]
        return replace(self._train(rest), test_images=images, test_labels=labels)

    def noisy(self, rate: float, seed: int = 0) -> "Data":
        """Give a share ``rate`` of the training images the label of another class.

        Which images, and which wrong class, is drawn by ``seed``; every wrong class is
        equally likely.  Test labels stay right.
        """
        if not 0 <= rate <= 1:
            raise ValueError(f"a rate lies between 0 and 1; got {rate}")
        draw = torch.Generator().manual_seed(seed)
        labels = self.train_labels.cpu().clone()
        n = len(labels)
        wrong = torch.randperm(n, generator=draw)[: round(rate * n)]
        # A step of 1 .. classes-1 around the circle of labels never comes back to the start.
        step = torch.randint(1, self.classes, (len(wrong),), generator=draw)
        labels[wrong] = (labels[wrong] + step) % self.classes
        return replace(self, train_labels=labels.to(self.train_labels.device))

    def _train(self, kept: Int[Tensor, " k"]) -> "Data":
        images, labels = self.train_images[kept], self.train_labels[kept]
        return replace(self, train_images=images, train_labels=labels)

    def _drawn(
        self, per_class: int | None, fraction: float | None, seed: int
    ) -> tuple[Tensor, Tensor]:
        """Positions drawn from each class, and the others, both in ascending order."""
        if fraction is not None and not 0 < fraction <= 1:
            raise ValueError(f"a fraction lies above 0 and at most at 1; got {fraction}")
        labels = self.train_labels.cpu()
        draw = torch.Generator().manual_seed(seed)
        drawn = torch.zeros(len(labels), dtype=torch.bool)
        for label in range(self.classes):
            (members,) = torch.where(labels == label)
            count = per_class if fraction is None else max(1, round(fraction * len(members)))
            if count > len(members):
                raise ValueError(
                    f"class {self.label_names[label]!r} of {self.name} has {len(members)} "
                    f"training images; {count} were asked for"
                )
            drawn[members[torch.randperm(len(members), generator=draw)[:count]]] = True
        device = self.train_labels.device
        return torch.where(drawn)[0].to(device), torch.where(~drawn)[0].to(device)


def folder() -> Path:
    """Where array files are kept: $MARGINLIB_DATA, or the user's cache folder."""
    if given := os.environ.get("MARGINLIB_DATA"):
        return Path(given)
    if sys.platform == "win32":
        cache = os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        cache = Path.home() / "Library" / "Caches"
    else:
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "marginlib"


def load(name: str | Path, size: int | None = None) -> Data:
    """Load a set by its name, or a folder of images by its path.

    Args:
        name: ``"pocket"`` (embedded), ``"mnist"``, ``"fashion-mnist"``, ``"cifar10"``,
            ``"cifar100"``, ``"svhn"``, ``"omniglot"``, any other ``<name>.npz`` in
            :func:`folder`, or a folder of images, by its path or by its name in
            :func:`folder`: ``train/<class>/*`` beside ``test/`` or ``val/``, or class folders
            alone, of which a fifth is then set apart as the test set.
        size: for a folder of images, the height and width they are resized to (64).

    Raises:
        ConnectionError: if the set is neither kept here nor can be downloaded; the message
            says how to get it.
        ValueError: for a name that is neither a set nor a folder.

    >>> pocket = load("pocket")
    >>> pocket.source
    'Fashion-MNIST, 250 training and 80 test images a class'
    >>> pocket.train_images.shape, pocket.classes
    (torch.Size([2500, 1, 28, 28]), 10)
    """
    name = str(name)
    if name == "pocket":
        return _read(POCKET, name)
    kept = folder() / f"{name}.npz"
    if kept.is_file():
        return _read(kept, name)
    for place in (Path(name), folder() / name):
        if place.is_dir():
            return _image_folder(place, size or 64)
    if name not in DOWNLOADS:
        raise ValueError(
            f"{name!r} is neither a folder, here or in {folder()}, nor a set known here; "
            f"the sets are pocket, {', '.join(DOWNLOADS)}"
        )
    _download(name, kept)
    return _read(kept, name)


def _read(path: Path, name: str) -> Data:
    import numpy as np

    with np.load(path) as arrays:
        images = {
            split: torch.from_numpy(arrays[f"{split}_images"]).permute(0, 3, 1, 2).contiguous()
            for split in ("train", "test")
        }
        labels = {split: torch.from_numpy(arrays[f"{split}_labels"]) for split in images}
        return Data(
            name=name,
            source=str(arrays["source"]),
            label_names=tuple(str(label) for label in arrays["label_names"]),
            train_images=images["train"],
            train_labels=labels["train"],
            test_images=images["test"],
            test_labels=labels["test"],
        )


def _download(name: str, kept: Path) -> None:
    import numpy as np

    try:
        train, test = _torchvision(name, kept.parent / "downloads")
    except (ImportError, OSError, RuntimeError) as error:  # SVHN is read with scipy
        raise ConnectionError(
            f"The set {name!r} is not at {kept} and could not be downloaded ({error}). "
            f'On a machine with a network run data.load("{name}"), copy its {kept.name} here, '
            "and set MARGINLIB_DATA to the folder that holds it. "
            'data.load("pocket") needs neither.'
        ) from error
    note = ": its background set, 35 x 35" if name == "omniglot" else ""
    arrays = {
        "source": np.array(f"{DOWNLOADS[name]} as torchvision downloads it{note}"),
        "label_names": np.array(getattr(train, "classes", [str(digit) for digit in range(10)])),
    }
    for split, part in (("train", train), ("test", test)):
        images = np.asarray(part.data)
        if name == "svhn":
            images = images.transpose(0, 2, 3, 1)
        arrays[f"{split}_images"] = images if images.ndim == 4 else images[..., None]
        targets = part.labels if name == "svhn" else part.targets
        arrays[f"{split}_labels"] = np.asarray(targets, dtype=np.int64)
    # A half-written file must never be taken for a whole one.
    partial = kept.with_suffix(".partial.npz")
    np.savez(partial, **arrays)
    partial.replace(kept)


def _torchvision(name: str, root: Path) -> tuple:
    """The two parts of a set by torchvision's own class, which shows its progress."""
    from torchvision import datasets

    root.mkdir(parents=True, exist_ok=True)
    make = getattr(datasets, DOWNLOADS[name])
    if name == "omniglot":
        return _omniglot(Path(make(root, download=True).target_folder))
    if name == "svhn":
        return tuple(make(root, split=split, download=True) for split in ("train", "test"))
    return tuple(make(root, train=train, download=True) for train in (True, False))


def _omniglot(path: Path) -> tuple:
    """Every character of the background set: 15 drawings to train on, the last 5 to test.

    The drawings, 105 x 105 and black on white, become white ink on black, averaged over
    3 x 3 pixels: 35 x 35, which a CPU can train on.
    """
    import numpy as np
    from PIL import Image

    characters = sorted(path.glob("*/*"))
    names = [f"{character.parent.name}/{character.name}" for character in characters]
    parts = []
    for drawers in (slice(15), slice(15, None)):
        images, targets = [], []
        for label, character in enumerate(characters):
            for drawing in sorted(character.glob("*.png"))[drawers]:
                ink = 255 - np.asarray(Image.open(drawing).convert("L"), dtype=np.float32)
                images.append(ink.reshape(35, 3, 35, 3).mean((1, 3)).round().astype(np.uint8))
                targets.append(label)
        parts.append(SimpleNamespace(data=np.stack(images), targets=targets, classes=names))
    return tuple(parts)


def _image_folder(path: Path, size: int) -> Data:
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import CenterCrop, Compose, PILToTensor, Resize

    # ImageFolder's own reader makes every image RGB, so all have three channels.
    view = Compose([Resize(size), CenterCrop(size), PILToTensor()])
    parts = [path / part for part in ("train", "test", "val") if (path / part).is_dir()]
    sets = [ImageFolder(part, view) for part in parts[:2]] or [ImageFolder(path, view)]
    if any(part.classes != sets[0].classes for part in sets):
        raise ValueError(f"{parts[0]} and {parts[1]} do not hold the same classes")
    stacks = [
        (torch.stack([image for image, _ in part]), torch.tensor(part.targets)) for part in sets
    ]
    source = f"folder {path.name}, {size} x {size}"
    whole = Data(path.name, source, tuple(sets[0].classes), *stacks[0], *stacks[-1])
    if len(sets) == 2:
        return whole
    return replace(whole.held_out(0.2), source=f"{source}, a fifth of each class as test")


def batches(
    images: UInt8[Tensor, "n c h w"],
    labels: Int[Tensor, " n"],
    batch: int,
    draw: torch.Generator,
    augment: bool = False,
) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch in random order: images (b, c, h, w) uint8 with labels (b,).

    The last, incomplete batch is left out (batch normalisation needs more than one
    example), except where it is the only one.  With ``augment`` each image is padded by 4
    pixels of zeros, cropped back at a random place, and mirrored with probability one half.
    All choices are drawn on the CPU by ``draw``, so that a seed means the same on a GPU.
    """
    n = len(images)
    order = torch.randperm(n, generator=draw)
    place = torch.randint(0, 9, (n, 2), generator=draw).to(images.device) if augment else None
    mirror = (torch.rand(n, generator=draw) < 0.5).to(images.device) if augment else None
    order = order.to(images.device)
    for start in range(0, max(n - batch, 0) + 1, batch):
        picked = order[start : start + batch]
        view = images[picked]
        if augment:
            here = slice(start, start + batch)
            view = pad_crop_flip(view, place[here], mirror[here])
        yield view, labels[picked]


def pad_crop_flip(
    images: UInt8[Tensor, "b c h w"], place: Int[Tensor, "b 2"], mirror: Tensor, pad: int = 4
) -> UInt8[Tensor, "b c h w"]:
    """Pad by ``pad`` zeros, crop at ``place`` (0 .. 2 pad, down and right), mirror where true.

    ``place = pad`` on both axes and no mirror gives the images back.
    """
    b, _, h, w = images.shape
    padded = torch.nn.functional.pad(images, (pad, pad, pad, pad))
    rows = torch.arange(h, device=images.device) + place[:, :1]
    columns = torch.arange(w, device=images.device)
    columns = torch.where(mirror[:, None], columns.flip(0), columns) + place[:, 1:]
    image = torch.arange(b, device=images.device)[:, None, None]
    # Indices on both sides of the slice put the channels last: move them back.
    return padded[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
