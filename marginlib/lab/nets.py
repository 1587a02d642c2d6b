"""Networks by name.  Each maps images to features; the classifier is a head's business.

net = build("tiny", channels=1, size=28)
head = LinearHead(net.features, 10)

The sources' nets::

    000    resnet50, vgg16_bn, resnext50_32x4d
    001    liunet-28, liunet-32, cifar10-full, alexnet-32
    002    cnn13, wrn-28-10, vgg16_bn, vgg16-mod, mobilenet-v1, resnext50_32x4d
    003    plane, liunet-28, liunet-32
    004    plane, cnn13

``tiny`` and ``tiny-plane`` are ours.  Those that are written here start from torch's own random
weights, whatever their authors drew.
"""

from collections.abc import Callable, Iterator

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

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
            MobileNets by its name there (``"resnet50"``, ``"vgg16_bn"``, ...; untrained
            and without dropout).
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
    return _torchvision(name, channels, width)


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


def cifar10_full(channels: int, size: int, width: float) -> tuple[nn.Module, int]:
    """Caffe's CIFAR10-Full (Jia et al. 2014): three 5 x 5 convolutions, 1,024 features at 32 x 32.

    Filters 32, 32, 64; overlapping pooling (3 x 3 in steps of 2), the first by the maximum, the
    others by the mean; normalisation within each channel after the first two.  The pooled maps
    are the features: no layer stands between them and the classifier.  Source 001 averages
    it with other nets in Table 3, 0.35 and 0.71 MB with the classifiers of CIFAR-10 and
    CIFAR-100, where this row takes 1,024 bytes for a thousand.
    """
    a, b, c = (scaled(n, width) for n in (32, 32, 64))
    body = nn.Sequential(
        nn.Conv2d(channels, a, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        NormWithinChannel(),
        nn.Conv2d(a, b, 5, padding=2),
        nn.ReLU(),
        nn.AvgPool2d(3, 2, ceil_mode=True),
        NormWithinChannel(),
        nn.Conv2d(b, c, 5, padding=2),
        nn.ReLU(),
        nn.AvgPool2d(3, 2, ceil_mode=True),
        nn.Flatten(),
    )
    return body, c * (size // 8) ** 2


class NormWithinChannel(nn.Module):
    """Divide by (1 + 5e-5 s)^0.75, s the mean square of the 3 x 3 neighbours in the same channel.

    torch's ``LocalResponseNorm`` looks across channels instead.
    """

    def forward(self, maps: Images) -> Images:
        """Normalise maps; beyond their edges they are zero."""
        return maps / (1 + 5e-5 * avg_pool2d(maps.square(), 3, stride=1, padding=1)) ** 0.75


def alexnet(channels: int, size: int, width: float) -> tuple[nn.Module, int]:
    """AlexNet (Krizhevsky et al. 2012) as Caffe has it, for small images: 4,096 features.

    Five convolutions, the second, fourth and fifth in two groups; response normalisation after
    the first two; overlapping pooling after the first, second and fifth; two layers of 4,096
    with dropout one half.  Source 001 does not say how a net for 224 x 224 reads 32 x 32.  We
    change its first convolution alone, to 64 filters of 5 x 5 at every pixel, no padding: with
    the classifiers of CIFAR-10 and CIFAR-100 all parameters then take 113.9 and 115.3 MB, as
    Table 3 prints.  A few other changes would fit these two numbers as well.
    """
    # Two groups divide only an even number of filters: half of it is what is scaled.
    a, b, c, d, e = (2 * scaled(n // 2, width) for n in (64, 256, 384, 384, 256))
    features = scaled(4096, width)
    side = (size - 4) // 8
    body = nn.Sequential(
        nn.Conv2d(channels, a, 5),
        nn.ReLU(),
        nn.LocalResponseNorm(5),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.Conv2d(a, b, 5, padding=2, groups=2),
        nn.ReLU(),
        nn.LocalResponseNorm(5),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.Conv2d(b, c, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(c, d, 3, padding=1, groups=2),
        nn.ReLU(),
        nn.Conv2d(d, e, 3, padding=1, groups=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.Flatten(),
        nn.Linear(e * side * side, features),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(features, features),
        nn.ReLU(),
        nn.Dropout(0.5),
    )
    return body, features


def wide_resnet(channels: int, size: int, width: float) -> tuple[nn.Module, int]:
    """WideResNet-28-10 (Zagoruyko and Komodakis 2016): 36.5 million parameters, 640 features.

    A 3 x 3 convolution of 16, then three groups of four residual blocks with 160, 320 and 640
    filters, the last two groups at half the resolution of the one before; batch
    normalisation, ReLU, a global average.  Its authors train it with and without dropout in
    the blocks; source 002 does not say which it took, and here there is none.
    """
    last, *groups = (scaled(n, width) for n in (16, 160, 320, 640))
    layers: list[nn.Module] = [nn.Conv2d(channels, last, 3, padding=1, bias=False)]
    for filters, stride in zip(groups, (1, 2, 2), strict=True):
        for step in (stride, 1, 1, 1):
            layers.append(Residual(last, filters, step))
            last = filters
    layers += [nn.BatchNorm2d(last), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers), last


class Residual(nn.Module):
    """Add to the maps what two 3 x 3 convolutions make of them, each after normalisation and ReLU.

    Where the number of filters changes, a 1 x 1 convolution of the normalised maps stands for
    the maps themselves.
    """

    def __init__(self, inputs: int, filters: int, stride: int):
        super().__init__()
        self.active = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU())
        self.residual = nn.Sequential(
            *convolution(inputs, filters, stride=stride, act=nn.ReLU()),
            nn.Conv2d(filters, filters, 3, padding=1, bias=False),
        )
        self.shortcut = (
            None if inputs == filters else nn.Conv2d(inputs, filters, 1, stride, bias=False)
        )

    def forward(self, maps: Images) -> Images:
        """Map maps to as many filters, at the resolution that the stride leaves."""
        active = self.active(maps)
        return self.residual(active) + (self.shortcut(active) if self.shortcut else maps)


def vgg16_mod(channels: int, size: int, width: float) -> tuple[nn.Module, int]:
    """The modified VGG-16 of Kobayashi 2018, which source 002 uses: 4,096 features.

    The 13 convolutions of VGG-16 (Simonyan and Zisserman 2015) with batch normalisation and
    the first four poolings.  Instead of the fifth and the first linear layer come a 1 x 1
    convolution to 4,096 and a global average, then the second linear layer, also normalised;
    no dropout.  Source 002 names this net and states none of it: we follow what its
    author has published under that name.
    """
    layers: list[nn.Module] = []
    last = channels
    for stage, (filters, depth) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))):
        if stage > 0:
            layers.append(nn.MaxPool2d(2))
        for _ in range(depth):
            layers += convolution(last, scaled(filters, width), act=nn.ReLU())
            last = scaled(filters, width)
    features = scaled(4096, width)
    layers += convolution(last, features, kernel=1, padding=0, act=nn.ReLU())
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    layers += [nn.Linear(features, features, bias=False), nn.BatchNorm1d(features), nn.ReLU()]
    return nn.Sequential(*layers), features


def mobilenet_v1(channels: int, size: int, width: float) -> tuple[nn.Module, int]:
    """MobileNet (Howard et al. 2017), the one that source 002 cites: 1,024 features.

    A 3 x 3 convolution of 32 in steps of 2, then 13 pairs of a 3 x 3 convolution within each
    channel and a 1 x 1 convolution across them, each with batch normalisation and ReLU; a
    global average.  torchvision has its successors only.  The last pair keeps the resolution:
    the step of 2 in the authors' Table 1 does not go with the 7 x 7 printed beside it.
    """
    last = scaled(32, width)
    layers = [*convolution(channels, last, stride=2, act=nn.ReLU())]
    stages = ((64, 1, 1), (128, 2, 2), (256, 2, 2), (512, 2, 6), (1024, 2, 2))
    for filters, stride, pairs in stages:
        for step in (stride, *[1] * (pairs - 1)):
            layers += convolution(last, last, stride=step, groups=last, act=nn.ReLU())
            layers += convolution(last, scaled(filters, width), kernel=1, padding=0, act=nn.ReLU())
            last = scaled(filters, width)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), last


def convolution(
    inputs: int,
    filters: int,
    *,
    kernel: int = 3,
    padding: int = 1,
    stride: int = 1,
    groups: int = 1,
    act: nn.Module,
) -> Iterator[nn.Module]:
    """Yield a convolution without bias, batch normalisation (which has one), activation."""
    yield nn.Conv2d(inputs, filters, kernel, stride, padding, groups=groups, bias=False)
    yield nn.BatchNorm2d(filters)
    yield act


def scaled(filters: int, width: float) -> int:
    """Scale a number of filters, never below one."""
    return max(1, round(filters * width))


def _torchvision(name: str, channels: int, width: float) -> Net:
    from torchvision import models

    theirs = [n for n in models.list_models(module=models) if n.startswith(TORCHVISION)]
    if name not in theirs:
        raise ValueError(
            f"unknown network {name!r}; there are {', '.join(NETS)}, "
            f"and of torchvision's {', '.join(theirs)}"
        )
    if channels != 3 or width != 1:
        raise ValueError(
            f"{name} takes colour images at its own width; got {channels} channels, width {width}"
        )
    body = models.get_model(name, weights=None)
    # Source 000 compares dropout with other methods, on backbones that have none of their own.
    for layer in body.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
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
    "cifar10-full": cifar10_full,
    "alexnet-32": alexnet,
    "cnn13": cnn13,
    "wrn-28-10": wide_resnet,
    "vgg16-mod": vgg16_mod,
    "mobilenet-v1": mobilenet_v1,
}
TORCHVISION = ("resnet", "resnext", "wide_resnet", "vgg", "mobilenet")
