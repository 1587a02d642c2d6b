"""Laws that every loss of the book obeys, whatever its chapter.

The losses are found, not listed: whatever ``marginlib`` exports under a name that ends in
``_loss``, with logits and target as its first arguments, is tried here; and so is, further
down, whatever takes features, one matrix of a row per class, and a target.
"""

import inspect
from functools import partial

import pytest
import torch
from beartype import beartype
from jaxtyping import Float, TypeCheckError, jaxtyped
from torch import Tensor
from wrong_losses import a_look_at_the_numbers

import marginlib
from marginlib import check, large_margin_loss, soft_margin_loss

PUBLIC = {name: entry for name, entry in vars(marginlib).items() if inspect.isfunction(entry)}


def first_arguments(function):
    return list(inspect.signature(function).parameters)[:2]


LOSSES = {
    name: function
    for name, function in PUBLIC.items()
    if name.endswith("_loss") and first_arguments(function) == ["logits", "target"]
}
# What a loss must declare to check, and why.
DECLARED = {
    # It prefers a certain finite margin, and charges for more.
    "label_smoothing_loss": {"unit": False, "vanishes": False},
    # It multiplies by sigmoid(f), which is 1 only for a logit that is large by itself.
    # Far below zero it is the softmax loss of twice the logits, so a pull of two is right there.
    "sigsoftmax_loss": {"shift": False, "unit": False},
}
# The same functions elsewhere in their parameters, and composed.
SETTINGS = {
    "soft_margin_loss, margin 0": partial(soft_margin_loss, margin=0.0),
    "soft_margin_loss, margin -2": partial(soft_margin_loss, margin=-2.0),
    "hinge_loss, bias 0": partial(marginlib.hinge_loss, bias=0.0),
    "dense_hinge_loss, bias 2": partial(marginlib.dense_hinge_loss, bias=2.0),
    "hard_bias_loss, bias 0": partial(marginlib.hard_bias_loss, bias=0.0),
    "large_margin_loss, strength 0": partial(large_margin_loss, strength=0.0),
    # Its order is safe below a strength of 3.33 for three classes.
    "large_margin_loss, strength 3": partial(large_margin_loss, strength=3.0),
    "large_margin_loss, D(q||u)": partial(large_margin_loss, divergence=marginlib.kl_to_uniform),
    "large_margin_loss, D(u||q)": partial(large_margin_loss, divergence=marginlib.kl_from_uniform),
    "large_margin_loss on soft_margin_loss": partial(large_margin_loss, base=soft_margin_loss),
    "large_margin_loss on hinge_loss": partial(large_margin_loss, base=marginlib.hinge_loss),
}
EVERY = [pytest.param(loss, DECLARED.get(name, {}), id=name) for name, loss in LOSSES.items()] + [
    pytest.param(loss, {}, id=name) for name, loss in SETTINGS.items()
]
every_loss = pytest.mark.parametrize(("loss", "declared"), EVERY)
each_loss = pytest.mark.parametrize(
    "loss", [pytest.param(*param.values[:1], id=param.id) for param in EVERY]
)


# What to call a public function with, by the names of its arguments.
N, C, D = 7, 3, 5


def sample(name, dtype=torch.float32):
    draw = torch.Generator().manual_seed(0)
    shapes = {
        "logits": (N, C),
        "rivals": (N, C - 1),
        "weight": (C, D),
        "means": (C, D),
        "centers": (C, D),
        "bias": (C,),
        "weights": (2, C, D),
        "score": (D,),
        "cosine": (N,),
    }
    others = {
        "target": torch.arange(N) % C,
        "same": torch.arange(N) % 2 == 0,
        "groups": 2,
        "margin": 2.0,
        "step": 1000.0,
    }
    # The others are sets of feature vectors: features, first, second, anchor ...
    return others.get(name, torch.randn(*shapes.get(name, (N, D)), generator=draw).to(dtype).tanh())


def required_arguments(function):
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.default is inspect.Parameter.empty]


def batch(n, c, dtype=torch.float64):
    draw = torch.Generator().manual_seed(n + 100 * c)
    return 2 * torch.randn(n, c, generator=draw, dtype=torch.float64).to(dtype), torch.arange(n) % c


# --- computed and compared ---------------------------------------------------------------


def test_the_losses_of_the_first_chapters_are_found():
    assert set(LOSSES) >= {
        "softmax_loss",
        "hinge_loss",
        "dense_hinge_loss",
        "hard_bias_loss",
        "sparsemax_loss",
        "soft_margin_loss",
        "large_margin_loss",
        "label_smoothing_loss",
    }
    assert set(DECLARED) <= set(LOSSES)


@every_loss
def test_every_law_holds(loss, declared):
    report = check(loss, **declared)
    assert report.perfect, report


@every_loss
def test_every_law_holds_for_other_logits_and_more_classes(loss, declared):
    report = check(loss, seed=1, classes=(4, 20), compiles=False, **declared)
    assert report.perfect, report


# torch's own forward derivatives still use its deprecated compiler.
forward_mode = pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")


@forward_mode
@each_loss
@pytest.mark.parametrize("c", [2, 3, 10])
def test_first_and_second_derivatives_agree_with_finite_differences(loss, c):
    logits, target = batch(5, c)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: loss(z, target), logits, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(lambda z: loss(z, target), logits)


def second_derivatives(loss, point):
    """The same matrix five ways: by autograd, and four by torch.func."""
    forward, reverse = torch.func.jacfwd, torch.func.jacrev
    orders = [(a, b) for a in (forward, reverse) for b in (forward, reverse)]
    return [torch.autograd.functional.hessian(loss, point), *(a(b(loss))(point) for a, b in orders)]


@forward_mode
@each_loss
def test_torch_func_differentiates_forward_and_back_in_any_order(loss):
    logits, target = batch(3, 4)
    due, *found = second_derivatives(lambda z: loss(z, target).sum(), logits)
    for matrix in found:
        torch.testing.assert_close(matrix, due)


# Losses that follow the strongest rival, or a rival's own hinge, have kinks there.
KINKED = {"hinge_loss", "dense_hinge_loss", "hard_bias_loss"}


@pytest.mark.parametrize("name", sorted(set(LOSSES) - KINKED))
def test_ties_are_no_trouble_to_a_smooth_loss(name):
    logits = torch.zeros(3, 4, dtype=torch.float64)
    logits[1, :2] = 0.5
    logits[2, 2:] = -0.5
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: LOSSES[name](z, torch.tensor([0, 1, 3])), logits)


@pytest.mark.parametrize("name", sorted(KINKED))
def test_rivals_that_tie_share_the_gradient(name):
    logits = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    LOSSES[name](logits, torch.tensor([0])).sum().backward()
    mine, *rivals = logits.grad[0].tolist()
    assert rivals[0] == rivals[1] == -mine / 2 > 0


@pytest.mark.parametrize(
    "loss",
    [pytest.param(p.values[0], id=p.id) for p in EVERY if p.values[1].get("shift", True)],
)
def test_a_common_shift_of_100000_costs_less_than_a_millionth(loss):
    logits, target = batch(200, 10, torch.float32)
    # Sixty-fourths, which float32 holds exactly at 100000 too.
    logits = (logits * 64).round() / 64
    near, far = loss(logits, target), loss(logits + 1e5, target)
    assert ((far - near).abs() <= 1e-6 * near.abs()).all()


@each_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened_before_anything_is_added(loss, dtype):
    logits, target = batch(50, 10, dtype)
    logits.requires_grad_()
    wide = logits.detach().float().requires_grad_()
    losses = loss(logits, target)
    # Not nearly: the halves are widened first, so every operation is the same.
    assert losses.dtype == torch.float32
    assert torch.equal(losses, loss(wide, target))
    losses.sum().backward()
    loss(wide, target).sum().backward()
    assert logits.grad.dtype == dtype
    assert torch.equal(logits.grad, wide.grad.to(dtype))


@each_loss
def test_single_precision_keeps_six_digits_at_the_extremes(loss):
    rows = [
        [3e4, -3e4, 1.0],
        [-3e4, 3e4, 2.5],
        [3e4, 3e4, 2.9e4],
        # Strong rivals a fraction apart.
        [3e4, 29999.7, 1.0],
        [-3e4, 3e4, 29999.6],
    ]
    for label in range(3):
        target = torch.full((len(rows),), label)
        single = torch.tensor(rows, requires_grad=True)
        double = single.detach().double().requires_grad_()
        found, due = loss(single, target), loss(double, target)
        torch.testing.assert_close(found.double(), due, rtol=1e-6, atol=1e-6)
        found.sum().backward()
        due.sum().backward()
        torch.testing.assert_close(single.grad.double(), double.grad, rtol=0, atol=1e-6)


# --- computed and compared: losses of features and a matrix of classes ---------------------

CLASSES_AND_TARGET = [[classes, "target"] for classes in ("weight", "means", "centers")]
FEATURE_LOSSES = {
    name: function
    for name, function in PUBLIC.items()
    if name.endswith(("_loss", "_nll"))
    and first_arguments(function)[0] == "features"
    and list(inspect.signature(function).parameters)[1:3] in CLASSES_AND_TARGET
}
# Chance is taken out, and gaussian_nll and the rest are as they come.
FIXED = {"noisy_softmax_loss": lambda n: {"noise": torch.linspace(-2, 2, n, dtype=torch.float64)}}
each_feature_loss = pytest.mark.parametrize("name", sorted(FEATURE_LOSSES))
# Their classes are places and not directions.
PLACES = {"gaussian_mixture_loss", "gaussian_nll", "center_loss"}


def features_and_classes(n, c, d, dtype=torch.float64):
    draw = torch.Generator().manual_seed(n + 10 * c + 100 * d)
    x, w = (torch.randn(rows, d, generator=draw, dtype=torch.float64) for rows in (n, c))
    return x.to(dtype), w.to(dtype), torch.arange(n) % c


def call(name, x, w, target):
    return FEATURE_LOSSES[name](x, w, target, **FIXED.get(name, lambda n: {})(len(x)))


def test_the_losses_of_features_are_found():
    assert set(FEATURE_LOSSES) == PLACES | {
        "l_softmax_loss",
        "a_softmax_loss",
        "normface_loss",
        "cosface_loss",
        "arcface_loss",
        "noisy_softmax_loss",
        "virtual_softmax_loss",
    }


@forward_mode
@each_feature_loss
@pytest.mark.parametrize(("n", "c", "d"), [(5, 2, 3), (1, 3, 1), (4, 7, 2)])
def test_derivatives_by_features_and_classes_agree_with_finite_differences(name, n, c, d):
    x, w, target = features_and_classes(n, c, d)
    points = x.requires_grad_(), w.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, w: call(name, x, w, target), points, check_forward_ad=True
    )
    assert torch.autograd.gradgradcheck(lambda x, w: call(name, x, w, target), points)


@forward_mode
@each_feature_loss
def test_torch_func_differentiates_losses_of_features_in_any_order(name):
    x, w, target = features_and_classes(3, 4, 2)
    both = torch.cat([x, w])
    due, *found = second_derivatives(lambda t: call(name, t[:3], t[3:], target).sum(), both)
    for matrix in found:
        torch.testing.assert_close(matrix, due)


@each_feature_loss
def test_each_example_has_its_own_loss(name):
    x, w, target = features_and_classes(6, 4, 3)
    fixed = FIXED.get(name, lambda n: {})(6)
    alone = [
        FEATURE_LOSSES[name](
            x[i : i + 1], w, target[i : i + 1], **{key: v[i : i + 1] for key, v in fixed.items()}
        )
        for i in range(6)
    ]
    torch.testing.assert_close(call(name, x, w, target), torch.cat(alone))


@each_feature_loss
def test_the_classes_names_do_not_matter(name):
    x, w, target = features_and_classes(6, 4, 3)
    order = torch.tensor([2, 0, 3, 1])
    renamed = order.argsort()[target]
    torch.testing.assert_close(call(name, x, w, target), call(name, x, w[order], renamed))


@each_feature_loss
def test_turning_the_whole_space_changes_nothing(name):
    x, w, target = features_and_classes(6, 4, 3)
    draw = torch.Generator().manual_seed(9)
    turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=draw, dtype=torch.float64))
    torch.testing.assert_close(call(name, x, w, target), call(name, x @ turn, w @ turn, target))


@each_feature_loss
def test_moving_the_whole_space_changes_only_losses_of_directions(name):
    x, w, target = features_and_classes(6, 4, 3)
    same = torch.allclose(call(name, x, w, target), call(name, x + 5, w + 5, target))
    assert same == (name in PLACES)


@each_feature_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_features_are_widened_first(name, dtype):
    x, w, target = features_and_classes(6, 4, 3, dtype)
    losses = call(name, x, w, target)
    assert losses.dtype == torch.float32
    assert torch.equal(losses, call(name, x.float(), w.float(), target))


@each_feature_loss
def test_single_precision_keeps_five_digits_of_features_and_of_gradients(name):
    for scale in (1e-3, 1.0, 1e3):
        x, w, target = features_and_classes(50, 10, 8, torch.float32)
        x = scale * x
        values = []
        for dtype in (torch.float32, torch.float64):
            a, b = (t.detach().to(dtype).requires_grad_() for t in (x, w))
            losses = call(name, a, b, target)
            losses.sum().backward()
            values.append([t.double() for t in (losses.detach(), a.grad, b.grad)])
        for found, due in zip(*values, strict=True):
            # A logit of 3000 is rounded by 1e-4; of the largest entry that is still less.
            assert ((found - due).abs().amax() / due.abs().amax()) < 1e-5


@each_feature_loss
@pytest.mark.parametrize("spoil", ["features", "classes", "both", "same", "opposite"])
def test_no_length_and_no_angle_are_finite_and_so_are_their_gradients(name, spoil):
    x, w, target = features_and_classes(4, 3, 2, torch.float32)
    if spoil in ("features", "both"):
        x = torch.zeros_like(x)
    if spoil in ("classes", "both"):
        w = torch.zeros_like(w)
    if spoil in ("same", "opposite"):
        x = (1 if spoil == "same" else -1) * w[target]
    x, w = x.clone().requires_grad_(), w.clone().requires_grad_()
    losses = call(name, x, w, target)
    by_x, by_w = torch.autograd.grad(losses.sum(), (x, w), create_graph=True)
    (by_x.square().sum() + by_w.square().sum()).backward()
    for t in (losses, by_x, by_w, x.grad, w.grad):
        assert t.isfinite().all()


@each_feature_loss
def test_compiled_as_one_graph_a_loss_of_features_is_the_same(name):
    torch.compiler.reset()
    compiled = torch.compile(FEATURE_LOSSES[name], backend="aot_eager", fullgraph=True)
    for n, c, d in ((4, 5, 3), (6, 3, 4)):
        values = []
        for function in (compiled, FEATURE_LOSSES[name]):
            x, w, target = features_and_classes(n, c, d)
            x, w = x.requires_grad_(), w.requires_grad_()
            losses = function(x, w, target, **FIXED.get(name, lambda n: {})(n))
            losses.sum().backward()
            values.append([losses.detach(), x.grad, w.grad])
        torch.testing.assert_close(*values)


@each_feature_loss
def test_no_features_at_all_give_no_losses(name):
    assert call(name, torch.zeros(0, 3), torch.ones(4, 3), torch.zeros(0).long()).shape == (0,)


# --- told and checked --------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(PUBLIC.keys() - {"check"}))
def test_a_signature_tells_the_truth_about_shapes(name):
    function = PUBLIC[name]
    watched = jaxtyped(typechecker=beartype)(function)
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        watched(*(sample(argument, dtype) for argument in required_arguments(function)))


def test_a_signature_that_lies_about_shapes_is_noticed():
    @jaxtyped(typechecker=beartype)
    def lying(logits: Float[Tensor, "n c"]) -> Float[Tensor, " c"]:
        return logits.sum(dim=1)

    with pytest.raises(TypeCheckError):
        lying(sample("logits"))


@each_loss
@pytest.mark.parametrize(("n", "c"), [(1, 2), (1, 3), (0, 2), (0, 5)])
def test_one_example_and_none_are_batches_too(loss, n, c):
    watched = jaxtyped(typechecker=beartype)(loss.func if isinstance(loss, partial) else loss)
    arguments = loss.keywords if isinstance(loss, partial) else {}
    losses = watched(torch.zeros(n, c), torch.zeros(n, dtype=torch.long), **arguments)
    assert losses.shape == (n,)


@each_loss
def test_no_loss_reads_a_number_it_would_have_to_wait_for(loss):
    # Tensors without numbers: whoever asks for one, as .item() and `if` do, gets an error.
    with torch.device("meta"):
        logits = torch.zeros(4, 3, requires_grad=True)
        losses = loss(logits, torch.zeros(4, dtype=torch.long))
        losses.sum().backward()
    assert losses.shape == (4,)


def test_a_loss_that_reads_a_number_is_noticed():
    with torch.device("meta"), pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        a_look_at_the_numbers(torch.zeros(4, 3), torch.zeros(4, dtype=torch.long))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@each_loss
def test_no_loss_waits_for_the_gpu(loss):
    logits, target = (x.cuda() for x in batch(4, 3))
    logits.requires_grad_()
    loss(logits, target).sum().backward()  # The first call may load kernels.
    torch.cuda.set_sync_debug_mode("error")
    try:
        losses = loss(logits, target)
        losses.sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    cpu = loss(logits.detach().cpu(), target.cpu())
    # float64 on both sides; the sums run in another order.
    torch.testing.assert_close(losses.detach().cpu(), cpu, rtol=1e-12, atol=1e-12)


@each_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_gives_single_precision_losses(loss, dtype):
    features = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    weight = torch.ones(5, 3).tril().requires_grad_()
    with torch.autocast("cpu", dtype):
        logits = features @ weight
        losses = loss(logits, torch.arange(4) % 3)
    assert logits.dtype == dtype
    assert losses.dtype == torch.float32
    losses.sum().backward()
    assert weight.grad.isfinite().all()


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_compiled_as_one_graph_it_is_the_same_function_and_gradient(name):
    loss = LOSSES[name]
    torch.compiler.reset()
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    # A second size and a second number of classes: the graph must not hold on to the first.
    for n, c in ((4, 5), (6, 3), (9, 7)):
        logits, target = batch(n, c)
        first, second = (logits.clone().requires_grad_() for _ in range(2))
        losses = compiled(first, target)
        torch.testing.assert_close(losses, loss(second, target))
        losses.sum().backward()
        loss(second, target).sum().backward()
        torch.testing.assert_close(first.grad, second.grad)


# --- refused -----------------------------------------------------------------------------


@each_loss
@pytest.mark.parametrize(
    ("logits", "target", "error", "told"),
    [
        (
            torch.zeros(2, 3),
            torch.zeros(3, dtype=torch.long),
            ValueError,
            "logits (2, 3) and target (3,)",
        ),
        (torch.zeros(2, 1), torch.zeros(2, dtype=torch.long), ValueError, "a margin needs a rival"),
        (torch.zeros(2, 3), torch.tensor([0, 3]), ValueError, "labels from 0 to 2"),
        (torch.zeros(2, 3), torch.tensor([-1, 0]), ValueError, "labels from 0 to 2"),
        (torch.zeros(2, 3), torch.zeros(2), TypeError, "got torch.float32"),
        (torch.zeros(2, 3), torch.zeros(2, 3), ValueError, "target (2, 3)"),
        (torch.zeros(2, 3, dtype=torch.long), torch.tensor([0, 1]), TypeError, "floating point"),
    ],
    ids=[
        "lengths",
        "one class",
        "too high",
        "negative",
        "float labels",
        "one-hot",
        "integer logits",
    ],
)
def test_bad_input_is_refused_with_what_was_expected_and_what_came(
    loss, logits, target, error, told
):
    with pytest.raises(error) as refusal:
        loss(logits, target)
    assert told in str(refusal.value)


@each_feature_loss
@pytest.mark.parametrize(
    ("spoil", "error", "told"),
    [
        (lambda x, w, y: (x[:, 1:], w, y), ValueError, "features (6, 2) and weight (4, 3)"),
        (lambda x, w, y: (x[None], w, y), ValueError, "features (1, 6, 3)"),
        (lambda x, w, y: (x, w, y[1:]), ValueError, "features (6, 3) and target (5,)"),
        (lambda x, w, y: (x, w[:1], y), ValueError, "a margin needs a rival"),
        (lambda x, w, y: (x, w, y + 1), ValueError, "labels from 0 to 3"),
        (lambda x, w, y: (x, w, y.float()), TypeError, "target must hold class indices"),
        (lambda x, w, y: (x.long(), w, y), TypeError, "features must be floating point"),
        (lambda x, w, y: (x, w.long(), y), TypeError, "weight must be floating point"),
    ],
    ids=["d", "a batch", "lengths", "a class", "high", "floats", "integers", "integer weight"],
)
def test_features_that_do_not_fit_are_refused_with_what_came(name, spoil, error, told):
    with pytest.raises(error) as refusal:
        FEATURE_LOSSES[name](*spoil(*features_and_classes(6, 4, 3)))
    assert told in str(refusal.value)
