"""Networks by name.  Each maps images to features; the classifier is a head's business.

net = build("tiny", channels=1, size=28)
head = LinearHead(net.features, 10)
"""

from collections.abc import Callable, Iterator

from jaxtyping import Float
from torch import Tensor, nn

Images = Float[Tensor, "n c h w"]


class Net(nn.Module):
    """A body that maps images to ``features`` numbers each, and the name it was built by."""

    def __init__(self, name: str, body: nn.Module, features: int):
        super().__init__()
        self.name = name
        self.features = features
        self.body = body

    def forward(self, images: Images) -> Float[Tensor, "n d"]:
        """Map images to features."""
        return self.body(images)


def build(name: str, channels: int, size: int, width: float = 1.0) -> Net:
    """Build a network for square images.

    Args:
        name: one of :data:`NETS`, or any of torchvision's ResNets, ResNeXts, VGGs and
            MobileNets by its name there (``"resnet50"``, ``"vgg16_bn"``, ...; untrained).
        channels: 1 for grey images, 3 for colour.
        size: height and width of an image, in pixels.
        width: scales the number of filters of every layer (not of torchvision's nets).

    Raises:
        ValueError: for an unknown name, or a net that does not fit the images.

    >>> net = build("tiny", channels=1, size=28)
    >>> net(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 64])
    """
    if name in NETS:
        body, features = NETS[name](channels, size, width)
        return Net(name, body, features)
    if name.startswith(TORCHVISION):
        return _torchvision(name, channels, width)
    raise ValueError(
        f"unknown network {name!r}; there are {', '.join(NETS)}, "
        f"and torchvision's {', '.join(TORCHVISION)} by name"
    )


def tiny(channels: int, size: int, width: float) -> tuple[nn.Module, int]:
    """Two convolutions and one layer: 64 features, thousands of images a second on a CPU."""
    a, b, features = (scaled(n, width) for n in (16, 32, 64))
    side = size // 4
    body = nn.Sequential(
        nn.Conv2d(channels, a, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(a, b, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(b * side * side, features),
        nn.ReLU(),
    )
    return body, features


def plane(channels: int, size: int, width: float) -> tuple[nn.Module, int]:
    """Six 5 x 5 convolutions and a feature layer of two numbers, to be drawn in the plane.

    Filters 32, 32, 64, 64, 128, 128 with PReLU, as in the centre-loss paper's picture (Wen et
    al. 2016).  Its features carry no activation, so they fill the plane.
    """
    layers: list[nn.Module] = []
    last, side = channels, size
    for filters in (scaled(n, width) for n in (32, 64, 128)):
        for _ in range(2):
            layers += [nn.Conv2d(last, filters, 5, padding=2), nn.PReLU()]
            last = filters
        layers.append(nn.MaxPool2d(2))
        side //= 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(last * side * side, 2)), 2


def tiny_plane(channels: int, size: int, width: float) -> tuple[nn.Module, int]:
    """:func:`tiny` and a feature layer of two numbers: drawn in the plane on a CPU."""
    body, features = tiny(channels, size, width)
    return nn.Sequential(body, nn.Linear(features, 2)), 2


def liunet(
    filters: tuple[int, int, int, int], depth: int
) -> Callable[[int, int, float], tuple[nn.Module, int]]:
    """Liu et al. 2016: one convolution, three stages of ``depth``, 256 features.

    With depth 4 and filters (64, 64, 128, 256) at width 0.75, 1 and 1.5 the weights take 9.3,
    15.1 and 30.9 MB, as source 001 prints in Table 3: that fixes the number of layers, and
    256 features at every width.  The depth of 3 for 28 x 28, PReLU, batch normalisation
    and the rounding-up of pooled sizes are what we recall of the authors' published nets:
    none of the five sources states them.
    """

    def make(channels: int, size: int, width: float) -> tuple[nn.Module, int]:
        first, *stages = (scaled(n, width) for n in filters)
        layers = [*convolution(channels, first, act=nn.PReLU())]
        last, side = first, size
        for wide in stages:
            for _ in range(depth):
                layers += convolution(last, wide, act=nn.PReLU())
                last = wide
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
            side = -(-side // 2)
        layers += [nn.Flatten(), nn.Linear(last * side * side, 256), nn.PReLU()]
        return nn.Sequential(*layers), 256

    return make


def cnn13(channels: int, size: int, width: float) -> tuple[nn.Module, int]:
    """The 13-layer network of Tarvainen and Valpola 2017, which sources 002 and 004 use.

    Three 3 x 3 convolutions of 128, three of 256, then 512 (3 x 3), 256 and 128 (1 x 1), leaky
    ReLU 0.1, batch normalisation, dropout one half after each pooling, a global average:
    128 features.  The original's Gaussian noise on its input is left out, and plain batch
    normalisation stands for its weight normalisation; source 002 leaves the details to a
    supplement that we do not have.
    """
    a, b, c, d, features = (scaled(n, width) for n in (128, 256, 512, 256, 128))
    act = nn.LeakyReLU(0.1)
    layers: list[nn.Module] = []
    last = channels
    for wide in (a, b):
        for _ in range(3):
            layers += convolution(last, wide, act=act)
            last = wide
        layers += [nn.MaxPool2d(2), nn.Dropout(0.5)]
    layers += convolution(last, c, padding=0, act=act)
    layers += convolution(c, d, kernel=1, padding=0, act=act)
    layers += convolution(d, features, kernel=1, padding=0, act=act)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), features


def convolution(
    inputs: int, filters: int, *, kernel: int = 3, padding: int = 1, act: nn.Module
) -> Iterator[nn.Module]:
    """Yield a convolution without bias, batch normalisation (which has one), activation."""
    yield nn.Conv2d(inputs, filters, kernel, padding=padding, bias=False)
    yield nn.BatchNorm2d(filters)
    yield act


def scaled(filters: int, width: float) -> int:
    """Scale a number of filters, never below one."""
    return max(1, round(filters * width))


def _torchvision(name: str, channels: int, width: float) -> Net:
    from torchvision import models

    if name not in models.list_models(module=models):
        near = [n for n in models.list_models(module=models) if n.startswith(TORCHVISION)]
        raise ValueError(f"torchvision has no {name!r}; it has {', '.join(near)}")
    if channels != 3 or width != 1:
        raise ValueError(
            f"{name} takes colour images at its own width; got {channels} channels, width {width}"
        )
    body = models.get_model(name, weights=None)
    # The classifier is the last linear layer: put nothing in its place.
    path, last = [item for item in body.named_modules() if isinstance(item[1], nn.Linear)][-1]
    parent, _, attribute = path.rpartition(".")
    setattr(body.get_submodule(parent), attribute, nn.Identity())
    return Net(name, body, last.in_features)


NETS = {
    "tiny": tiny,
    "plane": plane,
    "tiny-plane": tiny_plane,
    "liunet-28": liunet((64, 64, 64, 64), depth=3),
    "liunet-32": liunet((64, 64, 128, 256), depth=4),
    "cnn13": cnn13,
}
TORCHVISION = ("resnet", "resnext", "wide_resnet", "vgg", "mobilenet")
