"""The networks: is each as large as its source says, and does it learn from its own images?"""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn.functional import batch_norm, conv2d
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import get_model_weights

from marginlib import LinearHead, large_margin_loss
from marginlib.lab import nets
from marginlib.lab.train import seeded

# Channels and size of the images that each net is made for, and the number of its features.
OWN = {
    "tiny": (1, 28, 64),
    "plane": (1, 28, 2),
    "tiny-plane": (1, 28, 2),
    "liunet-28": (1, 28, 256),
    "liunet-32": (3, 32, 256),
    "cifar10-full": (3, 32, 1024),
    "alexnet-32": (3, 32, 4096),
    "cnn13": (3, 32, 128),
    "wrn-28-10": (3, 32, 640),
    "vgg16-mod": (3, 224, 4096),
    "mobilenet-v1": (3, 224, 1024),
    "resnet50": (3, 224, 2048),
    "resnext50_32x4d": (3, 224, 2048),
    "vgg16_bn": (3, 224, 4096),
    "mobilenet_v2": (3, 224, 1280),
}
THEIRS = [name for name in OWN if name not in nets.NETS]


def chain(kernel, *filters, each):
    """Parameters of convolutions in a row; ``each`` counts what a filter has beside its weights.

    That is 1 for a bias, 2 for the scale and shift of batch normalisation.
    """
    return sum(kernel**2 * a * b + each * b for a, b in pairwise(filters))


def wide(inputs, filters):
    """Four residual blocks: eight convolutions with what normalises them, and the shortcut."""
    weights = 9 * inputs * filters + 7 * 9 * filters**2 + inputs * filters
    return weights + 2 * (inputs + 7 * filters)


def separable(inputs, filters):
    return 9 * inputs + 2 * inputs + inputs * filters + 2 * filters


TINY = chain(3, 1, 16, 32, each=1) + 7 * 7 * 32 * 64 + 64
MOBILE = (32, 64, 128, 128, 256, 256, *[512] * 6, 1024, 1024)

# Bodies without a classifier.  A PReLU has one slope for its whole layer.
PARAMETERS = {
    "tiny": TINY,
    "plane": chain(5, 1, 32, 32, 64, 64, 128, 128, each=1) + 6 + 3 * 3 * 128 * 2 + 2,
    "tiny-plane": TINY + 64 * 2 + 2,
    "liunet-28": chain(3, 1, *[64] * 10, each=2) + 10 + 4 * 4 * 64 * 256 + 256 + 1,
    "liunet-32": chain(3, 3, *[64] * 5, *[128] * 4, *[256] * 4, each=2)
    + 13
    + 4 * 4 * 256 * 256
    + 256
    + 1,
    "cifar10-full": chain(5, 3, 32, 32, 64, each=1),
    # Two groups: a filter sees half of what comes in.
    "alexnet-32": (5 * 5 * 3 + 1) * 64
    + (5 * 5 * 32 + 1) * 256
    + (3 * 3 * 256 + 1) * 384
    + (3 * 3 * 192 + 1) * (384 + 256)
    + (3 * 3 * 256 + 1) * 4096
    + (4096 + 1) * 4096,
    "cnn13": chain(3, 3, *[128] * 3, *[256] * 3, 512, each=2) + chain(1, 512, 256, 128, each=2),
    "wrn-28-10": chain(3, 3, 16, each=0) + wide(16, 160) + wide(160, 320) + wide(320, 640) + 1280,
    "vgg16-mod": chain(3, 3, 64, 64, 128, 128, *[256] * 3, *[512] * 6, each=2)
    + chain(1, 512, 4096, 4096, each=2),
    "mobilenet-v1": chain(3, 3, 32, each=2) + sum(separable(a, b) for a, b in pairwise(MOBILE)),
}


def parameters(name, classes=None):
    """How many a net has at its own size, with a linear classifier if the classes are given."""
    channels, size, features = OWN[name]
    with torch.device("meta"):  # shapes and no numbers: a VGG costs nothing
        body = sum(p.numel() for p in nets.build(name, channels, size).parameters())
    return body + (classes * (features + 1) if classes else 0)


def multiplications(name):
    """What one image of its own size costs a net."""
    channels, size, _ = OWN[name]
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        nets.build(name, channels, size)(torch.empty(2, channels, size, size))
    # The counter takes a multiplication and an addition for two, and here are two images.
    return counter.get_total_flops() // 4


# --- Claimed and proved -------------------------------------------------------------------


@pytest.mark.parametrize(("width", "megabytes"), [(0.75, 9.3), (1.0, 15.1), (1.5, 30.9)])
def test_liunet_is_as_large_as_source_001_prints_it(width, megabytes):
    net = nets.build("liunet-32", 3, 32, width)
    # Table 3 counts the weights, in millions of bytes and one decimal; biases, batch
    # normalisation and PReLU add less than that decimal shows.
    head = LinearHead(net.features, 10)
    weights = [p for m in (net, head) for p in m.parameters() if p.ndim > 1]
    assert sum(p.numel() for p in weights) * 4 / 1e6 == pytest.approx(megabytes, abs=0.06)


@pytest.mark.parametrize(
    ("name", "classes", "printed", "megabyte", "decimals"),
    [
        ("alexnet-32", 10, 113.9, 1e6, 1),
        ("alexnet-32", 100, 115.3, 1e6, 1),
        # A file of 350 KB, each of 1,024 bytes, is printed as 0.35 MB.
        ("cifar10-full", 10, 0.35, 1024e3, 2),
        ("cifar10-full", 100, 0.71, 1024e3, 2),
    ],
)
def test_the_nets_to_be_averaged_are_as_large_as_source_001_prints_them(
    name, classes, printed, megabyte, decimals
):
    assert round(parameters(name, classes) * 4 / megabyte, decimals) == printed


@pytest.mark.parametrize(
    ("name", "classes", "millions"),
    [
        ("wrn-28-10", 10, 36.5),  # Zagoruyko and Komodakis 2016
        ("mobilenet-v1", 1000, 4.2),  # Howard et al. 2017
    ],
)
def test_a_net_has_the_number_of_parameters_that_its_authors_print(name, classes, millions):
    assert round(parameters(name, classes) / 1e6, 1) == millions


def test_mobilenet_costs_the_569_million_multiplications_that_its_authors_print():
    assert round((multiplications("mobilenet-v1") + 1024 * 1000) / 1e6) == 569


# --- Computed and compared ----------------------------------------------------------------


@pytest.mark.parametrize("name", nets.NETS)
def test_a_net_has_as_many_parameters_as_its_layers_add_up_to(name):
    assert parameters(name) == PARAMETERS[name]


@pytest.mark.parametrize("name", THEIRS)
def test_a_net_of_torchvisions_lost_its_classifier_and_nothing_else(name):
    assert parameters(name, 1000) == get_model_weights(name).DEFAULT.meta["num_params"]


def test_the_modified_vgg_differs_from_vgg_above_the_convolutions_alone():
    ours = multiplications("vgg16-mod") - 14 * 14 * 512 * 4096 - 4096 * 4096
    theirs = multiplications("vgg16_bn") - 7 * 7 * 512 * 4096 - 4096 * 4096
    assert ours == theirs


def test_a_wide_residual_net_halves_the_resolution_twice():
    weights = {32: wide(16, 160), 16: wide(160, 320), 8: wide(320, 640)}
    norms = {32: 2 * (16 + 7 * 160), 16: 2 * (160 + 7 * 320), 8: 2 * (320 + 7 * 640)}
    blocks = sum(side**2 * (weights[side] - norms[side]) for side in weights)
    assert multiplications("wrn-28-10") == 32**2 * 3 * 3 * 3 * 16 + blocks


@pytest.mark.parametrize(("filters", "stride"), [(4, 1), (6, 2)])
def test_a_residual_block_without_its_residual_passes_the_maps_or_their_shortcut(filters, stride):
    with seeded(0):
        block = nets.Residual(4, filters, stride)
        maps = torch.randn(3, 4, 6, 6)
    nn.init.zeros_(block.residual[-1].weight)
    expected = maps
    if filters != 4:
        active = batch_norm(maps, None, None, training=True).relu()
        expected = conv2d(active, block.shortcut.weight, stride=stride)
    torch.testing.assert_close(block(maps), expected)


def test_normalising_within_a_channel_sees_the_neighbours_and_no_other_channel():
    maps = torch.zeros(1, 2, 5, 5)
    maps[0, 0, 2, 2] = 300.0
    maps[0, 1] = 1000.0
    lone, even = nets.NormWithinChannel()(maps)[0]
    # 5e-5 times the mean square: 1e4 of the lone value, 1e6 inside the even channel.
    assert lone[2, 2].item() == pytest.approx(300 / 1.5**0.75)
    assert lone.count_nonzero() == 1
    assert even[2, 2].item() == pytest.approx(1000 / 51**0.75)


# --- Told and checked ---------------------------------------------------------------------


@pytest.mark.parametrize("name", OWN)
def test_every_network_takes_a_step_on_images_of_its_own_size(name):
    channels, size, width = OWN[name]
    with seeded(0):
        net = nets.build(name, channels, size)
        head = LinearHead(net.features, 7, loss=large_margin_loss)
        features = net(torch.randn(2, channels, size, size))
    assert features.shape == (2, width)
    assert net.features == width
    assert head.logits(features).shape == (2, 7)
    loss = head(features, torch.tensor([0, 6]))
    loss.backward()
    assert loss.isfinite()
    learnt = [*net.parameters(), *head.parameters()]
    # A norm is finite if all its numbers are, and needs no copy of a VGG's half gigabyte.
    assert all(p.grad is not None and 0 < p.grad.norm() < math.inf for p in learnt)
    torch.optim.SGD(learnt, lr=0.01).step()
    assert all(p.norm() < math.inf for p in learnt)


@pytest.mark.parametrize(
    ("name", "channels", "size", "width", "features"),
    [
        ("cifar10-full", 1, 28, 1.0, 576),
        ("alexnet-32", 1, 28, 0.25, 1024),
        ("alexnet-32", 3, 64, 0.25, 1024),
        ("cnn13", 3, 32, 0.5, 64),
        ("wrn-28-10", 1, 28, 0.1, 64),
        ("vgg16-mod", 3, 32, 0.125, 512),
        ("mobilenet-v1", 1, 64, 0.5, 512),
    ],
)
def test_a_net_fits_other_images_at_other_widths(name, channels, size, width, features):
    with seeded(0):
        net = nets.build(name, channels, size, width)
        assert net(torch.randn(2, channels, size, size)).shape == (2, features)


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("cifar10-full", "conv max norm conv mean norm conv mean"),
        ("alexnet-32", "conv norm max conv norm max conv conv conv max linear drop linear drop"),
    ],
)
def test_layers_stand_in_the_order_that_caffe_publishes(name, order):
    words = {
        nn.Conv2d: "conv",
        nn.MaxPool2d: "max",
        nn.AvgPool2d: "mean",
        nn.LocalResponseNorm: "norm",
        nets.NormWithinChannel: "norm",
        nn.Linear: "linear",
        nn.Dropout: "drop",
    }
    with torch.device("meta"):
        layers = nets.build(name, 3, 32).body
    assert [words[type(layer)] for layer in layers if type(layer) in words] == order.split()


def test_a_net_of_torchvisions_drops_nothing_out():
    with seeded(0):
        net = nets.build("mobilenet_v2", 3, 64)
        images = torch.randn(2, 3, 64, 64)
        assert net.training
        assert torch.equal(net(images), net(images))


# --- Refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "channels", "says"),
    [
        ("lenet", 1, "'lenet'; there are tiny, plane"),
        ("vgg16-modified", 3, "there are .*vgg16-mod, .*torchvision's .*vgg16_bn"),
        ("resnet51", 3, "torchvision's .*resnet50"),
        ("resnet50", 1, "takes colour images"),
    ],
)
def test_a_bad_name_is_told_the_good_ones(name, channels, says):
    with pytest.raises(ValueError, match=says):
        nets.build(name, channels, 224)
