"""Heads at a network's end: torch's habits kept, whatever the loss inside."""

import copy
import inspect
import math
import pickle
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import linear

import marginlib
from marginlib import (
    ArcFaceHead,
    ASoftmaxHead,
    CenterHead,
    CosFaceHead,
    DropoutHead,
    EnsembleHead,
    GaussianHead,
    GroupHead,
    Head,
    LinearHead,
    LSoftmaxHead,
    NoisySoftmaxHead,
    NormFaceHead,
    VirtualSoftmaxHead,
    fixed_groups,
    large_margin_loss,
    soft_margin_loss,
    softmax_loss,
)

N, C, D = 12, 5, 4
PUBLIC = {name: value for name, value in sorted(vars(marginlib).items()) if name.endswith("_loss")}
LOSSES = [
    loss for loss in PUBLIC.values() if next(iter(inspect.signature(loss).parameters)) == "logits"
]
each_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
PRIORS = torch.tensor([0.1, 0.2, 0.3, 0.2, 0.2])

# Every head with values that are not its defaults, and what its loss is then, said again from
# the parameters.  No two values agree, so that none can stand in another's place.
HEADS = {
    "linear": (
        partial(LinearHead, loss=large_margin_loss),
        lambda h, x, y: large_margin_loss(linear(x, h.weight, h.bias), y),
    ),
    "l-softmax": (
        partial(LSoftmaxHead, margin=3, annealing=0.5),
        lambda h, x, y: marginlib.l_softmax_loss(x, h.weight, y, margin=3, annealing=0.5),
    ),
    "a-softmax": (
        partial(ASoftmaxHead, margin=2, annealing=0.7),
        lambda h, x, y: marginlib.a_softmax_loss(x, h.weight, y, margin=2, annealing=0.7),
    ),
    "normface": (
        partial(NormFaceHead, scale=3.0),
        lambda h, x, y: marginlib.normface_loss(x, h.weight, y, scale=3.0),
    ),
    "cosface": (
        partial(CosFaceHead, scale=5.0, margin=0.2),
        lambda h, x, y: marginlib.cosface_loss(x, h.weight, y, scale=5.0, margin=0.2),
    ),
    "arcface": (
        partial(ArcFaceHead, scale=5.0, margin=0.3),
        lambda h, x, y: marginlib.arcface_loss(x, h.weight, y, scale=5.0, margin=0.3),
    ),
    "gaussian": (
        partial(GaussianHead, alpha=0.2, margin=0.3, likelihood=0.4, priors=PRIORS),
        lambda h, x, y: (
            marginlib.gaussian_mixture_loss(
                x, h.means, y, priors=PRIORS.double(), alpha=0.2, margin=0.3
            )
            + 0.4 * marginlib.gaussian_nll(x, h.means, y)
        ),
    ),
    "gaussian-diagonal": (
        partial(GaussianHead, likelihood=0.4, variances="diagonal"),
        lambda h, x, y: (
            marginlib.gaussian_mixture_loss(x, h.means, y, h.log_variances.exp())
            + 0.4 * marginlib.gaussian_nll(x, h.means, y, h.log_variances.exp())
        ),
    ),
    "center": (
        partial(CenterHead, loss=soft_margin_loss, strength=0.3),
        lambda h, x, y: (
            soft_margin_loss(linear(x, h.weight, h.bias), y)
            + 0.3 * marginlib.center_loss(x, h.centers, y)
        ),
    ),
    "group": (
        partial(GroupHead, groups=(1, 2), kind=2, base=soft_margin_loss),
        lambda h, x, y: marginlib.group_loss(
            x, h.weight, h.bias, y, groups=(1, 2), kind=2, base=soft_margin_loss
        ),
    ),
    "group-fixed": (
        partial(GroupHead, groups=(4,), grouping=fixed_groups, bias=False),
        lambda h, x, y: marginlib.group_loss(
            x, h.weight, None, y, groups=(4,), grouping=fixed_groups
        ),
    ),
    "ensemble": (
        partial(EnsembleHead, classifiers=3, margin=0.6, diversity=0.2, base=large_margin_loss),
        lambda h, x, y: marginlib.ensemble_loss(
            x, h.weights, y, margin=0.6, diversity=0.2, base=large_margin_loss
        ),
    ),
    "virtual": (
        VirtualSoftmaxHead,
        lambda h, x, y: marginlib.virtual_softmax_loss(x, h.weight, y),
    ),
    "noisy": (partial(NoisySoftmaxHead, strength=0.4), None),
    "dropout": (partial(DropoutHead, rate=0.25), None),
    "dropout-adversarial": (
        partial(DropoutHead, loss=soft_margin_loss, rate=0.25, adversarial=True),
        lambda h, x, y: soft_margin_loss(
            linear(
                marginlib.adversarial_dropout(x, h.weight, h.bias, y, rate=0.25), h.weight, h.bias
            ),
            y,
        ),
    ),
}
each_head = pytest.mark.parametrize("name", HEADS)
MADE_WITHOUT_CHANCE = [name for name, (_, due) in HEADS.items() if due]


def made(name, **options):
    """A head of this name in float64; drawn afresh, always alike."""
    torch.manual_seed(0)
    head = HEADS[name][0](D, C, **options)
    if name == "gaussian-diagonal":
        with torch.no_grad():
            head.log_variances.uniform_(-1, 1)
    return head.double()


def same_chance(head, *arguments):
    """Call a head with the noise that it always gets."""
    torch.manual_seed(1)
    return head(*arguments)


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


@pytest.mark.parametrize("name", MADE_WITHOUT_CHANCE)
def test_a_head_s_loss_is_the_function_of_its_parameters(name, batch):
    head = made(name, reduction="none")
    due = HEADS[name][1](head, *batch)
    torch.testing.assert_close(head(*batch), due, rtol=1e-14, atol=0)
    torch.testing.assert_close(head.losses(*batch), due, rtol=1e-14, atol=0)


@pytest.mark.parametrize("name", MADE_WITHOUT_CHANCE)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_rows_that_are_ignored_might_as_well_not_be_there(name, reduction, batch):
    features, target = batch
    kept = torch.arange(N) % 3 != 0
    head = made(name, reduction=reduction, class_weight=CLASS_WEIGHT)
    ours = gradients(lambda x: head(x, torch.where(kept, target, -100)), features, head)
    alone = features[kept].clone().requires_grad_()
    head.zero_grad()
    value = head(alone, target[kept])
    slopes = torch.linspace(1, 2, N, dtype=torch.float64)[kept]
    value.backward(slopes if value.ndim else None)
    found = ours[0] if value.ndim == 0 else ours[0][kept]
    torch.testing.assert_close(found, value.detach())
    torch.testing.assert_close(ours[1][kept], alone.grad)
    assert ours[1][~kept].abs().max() == 0
    for mine, parameter in zip(ours[2:], head.parameters(), strict=True):
        torch.testing.assert_close(mine, parameter.grad)


@each_head
def test_every_head_s_gradient_agrees_with_finite_differences(name, batch):
    features, target = batch
    target[0] = -100
    head = made(name, class_weight=CLASS_WEIGHT)
    names = [key for key, _ in head.named_parameters()]

    def value(x, *parameters):
        torch.manual_seed(1)
        given = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(head, given, (x, target))

    points = [x.detach().clone().requires_grad_() for x in (features, *head.parameters())]
    assert torch.autograd.gradcheck(value, points)


@pytest.mark.parametrize(
    ("name", "due"),
    [
        ("l-softmax", lambda h, x: linear(x, h.weight)),
        ("a-softmax", lambda h, x: linear(x, nn.functional.normalize(h.weight))),
        ("normface", lambda h, x: 3 * cosines(x, h.weight)),
        ("cosface", lambda h, x: 5 * cosines(x, h.weight)),
        ("arcface", lambda h, x: 5 * cosines(x, h.weight)),
        ("gaussian", lambda h, x: PRIORS.double().log() - torch.cdist(x, h.means).square() / 2),
        (
            "gaussian-diagonal",
            lambda h, x: (
                torch.distributions.Normal(h.means, h.variances.sqrt()).log_prob(x[:, None]).sum(2)
                + D / 2 * math.log(2 * math.pi)
            ),
        ),
        ("center", lambda h, x: linear(x, h.weight, h.bias)),
        ("group", lambda h, x: linear(x, h.weight, h.bias)),
        ("ensemble", lambda h, x: linear(x, h.weights.mean(0))),
        ("virtual", lambda h, x: linear(x, h.weight)),
        ("noisy", lambda h, x: linear(x, h.weight)),
        ("dropout", lambda h, x: linear(x, h.weight, h.bias)),
        ("dropout-adversarial", lambda h, x: linear(x, h.weight, h.bias)),
    ],
)
def test_inference_knows_no_margin_no_noise_and_no_grouping(name, due, batch):
    head = made(name)
    # cdist and the squares it is undone by round in other places than one product does.
    torch.testing.assert_close(head.logits(batch[0]), due(head, batch[0]), rtol=1e-10, atol=1e-12)


def cosines(x, weight):
    return nn.functional.cosine_similarity(x[:, None], weight, dim=2)


@pytest.mark.parametrize("name", [n for n in HEADS if hasattr(made(n), "margin")])
def test_a_head_tells_the_margin_that_its_loss_takes(name, batch):
    head = made(name, reduction="none", **({"likelihood": 0.0} if "gaussian" in name else {}))
    margin = head.margin(*batch)
    assert margin.shape == (N,)
    due = soft_margin_loss(head.logits(batch[0]), batch[1], margin)
    torch.testing.assert_close(head(*batch), due)


def test_chance_disturbs_in_training_alone(batch):
    features, target = batch
    for name in ("noisy", "dropout", "dropout-adversarial"):
        head = made(name, reduction="none")
        plain = HEADS[name][0].keywords.get("loss", softmax_loss)(head.logits(features), target)
        assert not torch.allclose(same_chance(head, features, target), plain)
        assert torch.equal(head.eval()(features, target), plain)


def test_noise_and_dropout_have_the_strength_that_was_asked_for(batch):
    features, target = batch
    head = made("noisy", reduction="none")
    found = same_chance(head, features, target)
    torch.manual_seed(1)
    noise = torch.randn(N, dtype=torch.float64)
    due = marginlib.noisy_softmax_loss(features, head.weight, target, noise, strength=0.4)
    assert torch.equal(found, due)
    head = made("dropout", reduction="none")
    found = same_chance(head, features, target)
    torch.manual_seed(1)
    left = nn.functional.dropout(features, 0.25)
    assert torch.equal(found, softmax_loss(linear(left, head.weight, head.bias), target))


def test_a_head_s_own_attributes_are_its_loss_s_from_the_next_step_on(batch):
    head = made("l-softmax", reduction="none")
    head.annealing = 9.0
    due = marginlib.l_softmax_loss(batch[0], head.weight, batch[1], margin=3, annealing=9.0)
    assert torch.equal(head(*batch), due)
    head = made("gaussian", reduction="none", likelihood=0.0)
    head.alpha = 0.9
    due = marginlib.gaussian_mixture_loss(
        batch[0], head.means, batch[1], priors=head.priors, alpha=0.9, margin=0.3
    )
    assert torch.equal(head(*batch), due)


@each_head
def test_every_head_begins_within_a_linear_layer_s_bounds(name):
    head = HEADS[name][0](400, 50)
    drawn = {key: p for key, p in head.named_parameters() if key != "log_variances"}
    for parameter in drawn.values():
        # Uniform in +-1/20: of 50 draws or more the outermost are near the ends.
        assert 0.04 < parameter.max() <= 0.05
        assert -0.05 <= parameter.min() < -0.04
    if name == "gaussian-diagonal":
        assert head.log_variances.abs().max() == 0


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


@each_head
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_every_head_is_near_what_it_is_in_float32(name, dtype, batch):
    head, features = made(name).float(), batch[0].float()
    plain = same_chance(head, features, batch[1])
    with torch.autocast("cpu", dtype):
        value = same_chance(head, features, batch[1])
    value.backward()
    assert value.dtype == torch.float32
    assert all(p.grad.isfinite().all() for p in head.parameters())
    # bfloat16 keeps 8 bits of a logit where the logits are torch's own linear ones.
    torch.testing.assert_close(value, plain, rtol=0.01, atol=0.02)


@each_head
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_head_trains_in_half_precision(name, dtype, batch):
    head = made(name).to(dtype)
    value = head(batch[0].to(dtype), batch[1])
    value.backward()
    assert value.dtype == torch.float32
    for parameter in head.parameters():
        assert parameter.grad.dtype == dtype
        assert parameter.grad.isfinite().all()


@pytest.mark.parametrize("name", MADE_WITHOUT_CHANCE)
def test_every_head_compiles_as_one_graph(name, batch):
    features, target = batch
    target[0] = -100
    head = made(name, class_weight=CLASS_WEIGHT)
    torch.compiler.reset()
    compiled = torch.compile(head, backend="aot_eager", fullgraph=True)
    plain = gradients(lambda x: head(x, target), features, head)
    found = gradients(lambda x: compiled(x, target), features, head)
    torch.testing.assert_close(found, plain)


@each_head
def test_no_head_reads_a_number_it_would_have_to_wait_for(name):
    with torch.device("meta"):
        head = HEADS[name][0](D, C, class_weight=torch.ones(C)).to("meta")
        head(torch.zeros(N, D), torch.zeros(N, dtype=torch.long)).backward()
    assert all(p.grad.device.type == "meta" for p in head.parameters())


@each_head
def test_every_head_may_be_copied_and_kept(name, batch):
    head = made(name).eval()
    due = head(*batch)
    assert torch.equal(copy.deepcopy(head)(*batch), due)
    assert torch.equal(pickle.loads(pickle.dumps(head))(*batch), due)
    fresh = HEADS[name][0](D, C).double().eval()
    fresh.load_state_dict(head.state_dict())
    assert torch.equal(fresh(*batch), due)


@pytest.mark.parametrize("name", [n for n in HEADS if hasattr(made(n), "weight")])
def test_a_linear_layer_s_weight_loads_into_every_head_that_has_one(name):
    head = HEADS[name][0](D, C)
    layer = nn.Linear(D, C, bias=head.bias is not None)
    missing, unexpected = head.load_state_dict(layer.state_dict(), strict=False)
    assert (missing, unexpected) == (["centers"] if name == "center" else [], [])
    assert torch.equal(head.weight, layer.weight)


@pytest.mark.parametrize("name", ["l-softmax", "arcface", "gaussian", "group", "ensemble"])
@pytest.mark.parametrize("features", ["zero", "one", "large"])
def test_no_features_one_example_and_large_features_are_finite(name, features):
    x = {"zero": torch.zeros(3, D), "one": torch.ones(1, D), "large": torch.full((3, D), 1e4)}
    x = x[features].requires_grad_()
    head = made(name).float()
    value = head(x, torch.arange(len(x)))
    value.backward()
    assert value.isfinite()
    assert x.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in head.parameters())


@each_head
def test_training_any_head_lowers_its_loss(name, batch):
    features, target = batch
    head = made(name)
    optimiser = torch.optim.SGD(head.parameters(), lr=0.1)
    values = []
    for _ in range(40):
        optimiser.zero_grad()
        value = same_chance(head, features, target)
        value.backward()
        optimiser.step()
        values.append(value.item())
    assert values[-1] < values[0]


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


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("l-softmax", "LSoftmaxHead(in_features=4, num_classes=5, m=3, annealing=0.5"),
        ("a-softmax", "ASoftmaxHead(in_features=4, num_classes=5, m=2, annealing=0.7"),
        ("normface", "NormFaceHead(in_features=4, num_classes=5, scale=3.0"),
        ("cosface", "CosFaceHead(in_features=4, num_classes=5, scale=5.0, m=0.2"),
        ("gaussian", "GaussianHead(in_features=4, num_classes=5, alpha=0.2, m=0.3, likelihood=0.4"),
        ("center", "num_classes=5, loss=soft_margin_loss, strength=0.3"),
        ("group", "num_classes=5, groups=(1, 2), kind=2, base=soft_margin_loss"),
        ("ensemble", "classifiers=3, m=0.6, diversity=0.2, base=large_margin_loss"),
        ("noisy", "NoisySoftmaxHead(in_features=4, num_classes=5, strength=0.4"),
        ("dropout", "num_classes=5, loss=softmax_loss, rate=0.25, adversarial=False"),
    ],
)
def test_printed_a_head_shows_what_its_loss_was_given(name, told):
    assert told in repr(made(name))
    assert repr(made(name)).endswith("reduction='mean')")


@each_head
def test_a_head_s_sizes_may_be_named_and_its_settings_must_be(name):
    make = HEADS[name][0]
    sizes = {"in_features": D, "num_classes": C}
    assert repr(make(**sizes)) == repr(make(D, C))
    with pytest.raises(TypeError, match="positional"):
        type(make(**sizes))(D, C, None, None)


def test_an_ensemble_of_one_is_allowed(batch):
    one = EnsembleHead(D, C, classifiers=1, bias=False).double()
    due = softmax_loss(linear(batch[0], one.weights[0]), batch[1]).mean()
    torch.testing.assert_close(one(*batch), due)


def test_the_defaults_are_the_contract_s():
    defaults = {
        LSoftmaxHead: {"m": 4, "annealing": 0.0},
        ASoftmaxHead: {"m": 4, "annealing": 0.0},
        NormFaceHead: {"scale": 16.0},
        CosFaceHead: {"scale": 30.0, "m": 0.35},
        ArcFaceHead: {"scale": 30.0, "m": 0.5},
        GaussianHead: {"alpha": 0.0, "m": 0.0, "likelihood": 0.1, "variances": None},
        CenterHead: {"loss": softmax_loss, "strength": 0.01},
        GroupHead: {"groups": (1, 2), "kind": 1, "base": softmax_loss},
        EnsembleHead: {"classifiers": 2, "m": 0.0, "diversity": 0.1, "base": softmax_loss},
        NoisySoftmaxHead: {"strength": 0.1},
        DropoutHead: {"rate": 0.5, "adversarial": False, "loss": softmax_loss},
    }
    for kind, due in defaults.items():
        head = kind(D, C)
        assert {name: getattr(head, name) for name in due} == due
    for kind in (LSoftmaxHead, ArcFaceHead, VirtualSoftmaxHead, NoisySoftmaxHead):
        assert kind(D, C).bias is None
    assert GroupHead(D, C).bias.shape == (C,)
    assert GroupHead(D, C).grouping is marginlib.discriminative_groups


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
    with pytest.raises(ValueError, match=r"expected features \(n, d\) and weight \(c, d\); got"):
        head(features[None], target)


@each_head
def test_every_head_refuses_what_does_not_fit(name, batch):
    head, (features, target) = made(name), batch
    with pytest.raises(ValueError, match=r"got features \(12, 3\) and weight \(5, 4\)"):
        head(features[:, 1:], target)
    with pytest.raises(ValueError, match="expected labels from 0 to 4, as there are 5 classes"):
        head(features, target + 1)
    with pytest.raises(TypeError, match="target must hold class indices"):
        head(features, target.double())


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (partial(GaussianHead, likelihood=-1.0), "likelihood must be non-negative"),
        (partial(GaussianHead, variances="full"), "variances must be None or 'diagonal'"),
        (partial(CenterHead, strength=-1.0), "strength must be non-negative"),
        (partial(EnsembleHead, classifiers=0), "expected 1 classifier or more; got 0"),
        (partial(NoisySoftmaxHead, strength=-1.0), "strength must be non-negative"),
        (partial(DropoutHead, rate=1.5), "rate must be between 0 and 1; got 1.5"),
    ],
)
def test_a_head_is_refused_what_its_loss_would_refuse_later(make, told):
    with pytest.raises(ValueError, match=told):
        make(D, C)


def test_a_head_of_one_s_own_needs_losses(batch):
    with pytest.raises(NotImplementedError, match=r"Head has no losses\(features, target\)"):
        Head(D, C).double()(*batch)
