"""The head at a network's end: torch's habits kept, with any loss of logits inside."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import linear

import marginlib
from marginlib import LinearHead, large_margin_loss, soft_margin_loss, softmax_loss

N, C, D = 12, 5, 4
LOSSES = [getattr(marginlib, name) for name in sorted(vars(marginlib)) if name.endswith("_loss")]
each_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)


@pytest.fixture
def batch():
    draw = torch.Generator().manual_seed(0)
    return torch.randn(N, D, generator=draw, dtype=torch.float64), torch.arange(N) % C


@pytest.fixture
def head():
    torch.manual_seed(0)
    return LinearHead(D, C).double()


CLASS_WEIGHT = torch.tensor([0.5, 1.0, 2.0, 0.25, 3.0])


def gradients(function, features, layer):
    """Value and gradients, also of a loss that is not a single number."""
    features = features.clone().requires_grad_()
    layer.zero_grad()
    value = function(features)
    value.backward(torch.linspace(1, 2, N, dtype=value.dtype) if value.ndim else None)
    return value.detach(), features.grad, *(p.grad.clone() for p in layer.parameters())


# --- computed and compared ---------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("class_weight", [None, CLASS_WEIGHT], ids=["equal", "weighted"])
@pytest.mark.parametrize("ignored", [-100, 2, 255], ids=["-100", "a class", "255"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_with_the_softmax_loss_it_is_linear_and_cross_entropy(
    batch, reduction, class_weight, ignored, bias
):
    features, target = batch
    target[[1, 6, 7]] = ignored
    weight = None if class_weight is None else class_weight.double()
    options = {"reduction": reduction, "ignore_index": ignored}
    head = LinearHead(D, C, bias=bias, class_weight=weight, **options).double()
    layer = nn.Linear(D, C, bias=bias).double()
    layer.load_state_dict(head.state_dict())
    torchs = nn.CrossEntropyLoss(weight, **options)

    ours = gradients(lambda x: head(x, target), features, head)
    theirs = gradients(lambda x: torchs(layer(x), target), features, layer)
    for found, due in zip(ours, theirs, strict=True):
        # Two orders of summation in float64.
        torch.testing.assert_close(found, due, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_where_every_row_is_ignored_it_does_as_cross_entropy_does(head, batch, reduction):
    features, _ = batch
    target = torch.full((N,), -100)
    head.reduction = reduction
    found = head(features, target)
    torchs = nn.CrossEntropyLoss(reduction=reduction)
    torch.testing.assert_close(found, torchs(head.logits(features), target), equal_nan=True)
    assert bool(found.isnan().all()) == (reduction == "mean")
    if reduction != "mean":
        found.sum().backward()
        assert head.weight.grad.abs().max() == 0


@each_loss
def test_without_a_reduction_it_is_the_loss_of_its_logits(loss, batch):
    features, target = batch
    head = LinearHead(D, C, loss=loss, reduction="none").double()
    assert torch.equal(head(features, target), loss(head.logits(features), target))


@each_loss
def test_its_gradient_agrees_with_finite_differences(loss, batch):
    features, target = batch
    target[0] = -100
    head = LinearHead(D, C, loss=loss, class_weight=CLASS_WEIGHT).double()

    def value(x, weight, bias):
        return torch.func.functional_call(head, {"weight": weight, "bias": bias}, (x, target))

    points = [x.detach().clone().requires_grad_() for x in (features, head.weight, head.bias)]
    assert torch.autograd.gradcheck(value, points)


def test_logits_never_carry_a_margin(batch):
    features, _ = batch
    for loss in (softmax_loss, partial(soft_margin_loss, margin=5.0)):
        head = LinearHead(D, C, loss=loss).double()
        assert torch.equal(head.logits(features), linear(features, head.weight, head.bias))


def test_it_begins_as_a_linear_layer_begins():
    torch.manual_seed(3)
    layer = nn.Linear(D, C)
    torch.manual_seed(3)
    head = LinearHead(D, C)
    # torch finds its bound by another formula; the last bit may differ.
    torch.testing.assert_close(head.weight, layer.weight, rtol=1e-6, atol=0)
    torch.testing.assert_close(head.bias, layer.bias, rtol=1e-6, atol=0)


# --- told and checked --------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_its_state_is_that_of_a_linear_layer_both_ways(bias, batch):
    features = batch[0].float()
    head, layer = LinearHead(D, C, bias=bias, class_weight=CLASS_WEIGHT), nn.Linear(D, C, bias)
    layer.load_state_dict(head.state_dict())
    assert torch.equal(layer(features), head.logits(features))
    head.load_state_dict(nn.Linear(D, C, bias).state_dict())
    assert not torch.equal(layer(features), head.logits(features))


def test_an_ignored_row_adds_nothing_even_if_its_loss_is_infinite(head, batch):
    def infinite_at_class_0(logits, target):
        return torch.where(target == 0, torch.inf, softmax_loss(logits, target))

    features, target = batch
    head.loss = infinite_at_class_0
    target = torch.where(target == 0, -100, target)
    value = head(features, target)
    value.backward()
    assert value.isfinite()
    assert head.weight.grad.isfinite().all()


def test_the_class_weights_precision_is_not_the_losses():
    head = LinearHead(D, C, class_weight=CLASS_WEIGHT.double())
    assert head(torch.zeros(2, D), torch.tensor([0, 1])).dtype == torch.float32


def test_the_class_weight_goes_where_the_head_goes():
    head = LinearHead(D, C, class_weight=CLASS_WEIGHT)
    assert head.double().class_weight.dtype == torch.float64
    assert head.to("meta").class_weight.device.type == "meta"


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_labels_may_be_any_integers(head, batch, dtype):
    features, target = batch
    head.class_weight = CLASS_WEIGHT.double()
    assert torch.equal(head(features, target.to(dtype)), head(features, target))


def test_a_class_is_not_ignored_because_its_byte_looks_like_the_ignored_label():
    head, features = LinearHead(D, 200), torch.ones(2, D)
    # As a byte, -100 would be 156.
    target = torch.tensor([156, 1])
    assert torch.equal(head(features, target.to(torch.uint8)), head(features, target))


@each_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_keeps_the_loss_in_single_precision(loss, dtype, batch):
    features, target = batch[0].float(), batch[1]
    head = LinearHead(D, C, loss=loss, class_weight=CLASS_WEIGHT)
    plain = head(features, target)
    with torch.autocast("cpu", dtype):
        assert head.logits(features).dtype == dtype
        value = head(features, target)
    value.backward()
    assert value.dtype == head.weight.grad.dtype == torch.float32
    assert head.weight.grad.isfinite().all()
    # bfloat16 keeps 8 bits of each logit, float16 keeps 11; the mean over 12 rows is no worse.
    torch.testing.assert_close(value, plain, rtol=0, atol=0.02)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_head_in_half_precision_trains_too(batch, dtype):
    features, target = batch
    head = LinearHead(D, C, loss=large_margin_loss, class_weight=CLASS_WEIGHT).to(dtype)
    value = head(features.to(dtype), target)
    value.backward()
    assert value.dtype == torch.float32
    assert head.weight.grad.dtype == dtype
    assert head.weight.grad.isfinite().all()


def test_compiled_as_one_graph_it_is_the_same_head(batch):
    features, target = batch
    target[0] = -100
    head = LinearHead(D, C, loss=large_margin_loss, class_weight=CLASS_WEIGHT).double()
    torch.compiler.reset()
    compiled = torch.compile(head, backend="aot_eager", fullgraph=True)
    plain = gradients(lambda x: head(x, target), features, head)
    for found, due in zip(
        gradients(lambda x: compiled(x, target), features, head), plain, strict=True
    ):
        torch.testing.assert_close(found, due)


def test_it_reads_no_number_it_would_have_to_wait_for():
    with torch.device("meta"):
        head = LinearHead(D, C, loss=large_margin_loss, class_weight=torch.ones(C))
        head(torch.zeros(N, D), torch.zeros(N, dtype=torch.long)).backward()
    assert head.weight.grad.device.type == "meta"


def test_training_it_lowers_its_loss(batch):
    features, target = batch[0].float(), batch[1]
    head = LinearHead(D, C, loss=large_margin_loss)
    optimiser = torch.optim.SGD(head.parameters(), lr=0.5)
    values = []
    for _ in range(20):
        optimiser.zero_grad()
        value = head(features, target)
        value.backward()
        optimiser.step()
        values.append(value.item())
    assert values == sorted(values, reverse=True)


def test_the_least_head_has_one_feature_and_two_classes():
    head = LinearHead(1, 2)
    assert head.logits(torch.ones(3, 1)).shape == (3, 2)


def test_printed_it_shows_its_sizes_and_its_loss():
    head = LinearHead(D, C, loss=partial(large_margin_loss, strength=1.0), reduction="sum")
    told = "LinearHead(in_features=4, num_classes=5, loss=large_margin_loss, reduction='sum')"
    assert repr(head) == told
    assert "loss=CrossEntropyLoss" in repr(LinearHead(D, C, loss=nn.CrossEntropyLoss()))


# --- refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "kind", "told"),
    [
        (
            {"num_classes": 1},
            ValueError,
            "a margin needs a rival: expected 2 classes or more; got 1",
        ),
        ({"in_features": 0}, ValueError, "expected 1 feature or more; got 0"),
        (
            {"reduction": "average"},
            ValueError,
            "reduction must be one of mean, sum, none; got 'average'",
        ),
        ({"class_weight": torch.ones(4)}, ValueError, "expected class_weight (5,); got (4,)"),
        ({"class_weight": torch.ones(5, 1)}, ValueError, "expected class_weight (5,); got (5, 1)"),
        ({"class_weight": [1.0] * 5}, TypeError, "class_weight must be a tensor (5,); got list"),
    ],
)
def test_a_head_that_cannot_be_is_refused(arguments, kind, told):
    with pytest.raises(kind) as refusal:
        LinearHead(**({"in_features": D, "num_classes": C} | arguments))
    assert str(refusal.value) == told


@pytest.mark.parametrize(
    ("loss", "shape"),
    [
        (nn.CrossEntropyLoss(), "()"),
        (lambda z, y: softmax_loss(z, y)[:, None], f"({N}, 1)"),
        (lambda z, y: softmax_loss(z, y)[1:], f"({N - 1},)"),
    ],
    ids=["scalar", "column", "one short"],
)
def test_a_loss_that_is_not_one_number_per_example_is_refused(head, batch, loss, shape):
    head.loss = loss
    with pytest.raises(ValueError) as refusal:
        head(*batch)
    assert str(refusal.value) == (
        f"expected a loss that returns one number per example, ({N},); it returned {shape}"
    )


@pytest.mark.parametrize(
    ("spoil", "kind", "told"),
    [
        (lambda y: y.double(), TypeError, "got torch.float64"),
        (lambda y: y > 0, TypeError, "got torch.bool"),
        (lambda y: torch.eye(C)[y], ValueError, "target (12, 5)"),
        (lambda y: y[1:], ValueError, "target (11,)"),
        (lambda y: y[:, None], ValueError, "target (12, 1)"),
        (lambda y: y + 1, ValueError, "expected labels from 0 to 4, as there are 5 classes; got 5"),
        (lambda y: y - 1, ValueError, "got -1 in row 0"),
    ],
    ids=["floats", "truth values", "one-hot", "too few", "a column", "too high", "negative"],
)
def test_labels_that_the_loss_would_refuse_the_head_refuses_too(head, batch, spoil, kind, told):
    features, target = batch
    with pytest.raises(kind) as refusal:
        head(features, spoil(target))
    assert told in str(refusal.value)


def test_features_that_are_not_one_row_per_example_are_refused(head, batch):
    features, target = batch
    with pytest.raises(ValueError, match=r"expected logits \(n, c\) and target \(n,\); got"):
        head(features[None], target)
