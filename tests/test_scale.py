"""Chapter 13: the same losses with very many classes, by blocks of them."""

import re
from functools import partial

import numpy as np
import pytest
import torch
from beartype import beartype
from jaxtyping import jaxtyped
from scipy.special import logsumexp
from scipy.special import softmax as scipy_softmax
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

import marginlib as ml
from marginlib.scale import __main__ as demonstration
from marginlib.scale import chunked

N, C, D = 6, 11, 3
CPU = torch.device("cpu")


def of_logits(loss, **parameters):
    """The plain form of a loss of logits, with the arguments of one by blocks."""

    def plain(features, weight, target, bias=None):
        x, w = (t.float() if t.itemsize < 4 else t for t in (features, weight))
        offset = None if bias is None else bias.to(w.dtype)
        return loss(functional.linear(x, w, offset), target, **parameters)

    return plain


PER_EXAMPLE = torch.linspace(-1, 2, N, dtype=torch.float64)
SOFT = partial(ml.soft_margin_loss, margin=0.7)
# By name: the loss by blocks and the plain one that it has to equal.
LINEAR = {
    "softmax": (chunked.softmax_loss, of_logits(ml.softmax_loss)),
    "soft margin": (chunked.soft_margin_loss, of_logits(ml.soft_margin_loss)),
    "large margin": (chunked.large_margin_loss, of_logits(ml.large_margin_loss)),
    "label smoothing": (chunked.label_smoothing_loss, of_logits(ml.label_smoothing_loss)),
} | {
    f"large margin, {divergence.__name__}": (
        partial(chunked.large_margin_loss, divergence=divergence, strength=2.0),
        of_logits(ml.large_margin_loss, divergence=divergence, strength=2.0),
    )
    for divergence in (ml.kl_to_uniform, ml.kl_from_uniform)
}
ANGLES_AND_DISTANCES = {
    "L-Softmax": (chunked.l_softmax_loss, ml.l_softmax_loss),
    "A-Softmax": (chunked.a_softmax_loss, ml.a_softmax_loss),
    "NormFace": (chunked.normface_loss, ml.normface_loss),
    "CosFace": (chunked.cosface_loss, ml.cosface_loss),
    "ArcFace": (chunked.arcface_loss, ml.arcface_loss),
    "mixture": (chunked.gaussian_mixture_loss, ml.gaussian_mixture_loss),
    "mixture, margins": (
        partial(chunked.gaussian_mixture_loss, alpha=0.3, margin=0.5),
        partial(ml.gaussian_mixture_loss, alpha=0.3, margin=0.5),
    ),
}
PAIRS = LINEAR | ANGLES_AND_DISTANCES
# Tried for values and gradients only; their margins have one place for each of the N examples.
SETTINGS = {
    "margin per example": (
        partial(chunked.soft_margin_loss, margin=PER_EXAMPLE),
        of_logits(ml.soft_margin_loss, margin=PER_EXAMPLE),
    ),
    "large margin on a soft margin": (
        partial(chunked.large_margin_loss, base=SOFT),
        of_logits(ml.large_margin_loss, base=SOFT),
    ),
    "L-Softmax, annealed, margin 2.5": (
        partial(chunked.l_softmax_loss, margin=2.5, annealing=3.0),
        partial(ml.l_softmax_loss, margin=2.5, annealing=3.0),
    ),
    "mixture, priors": (
        partial(chunked.gaussian_mixture_loss, priors=torch.arange(1.0, C + 1).double()),
        partial(ml.gaussian_mixture_loss, priors=torch.arange(1.0, C + 1).double()),
    ),
}
each = pytest.mark.parametrize("name", PAIRS)


def batch(n=N, c=C, d=D, dtype=torch.float64):
    draw = torch.Generator().manual_seed(n + 10 * c)
    x, w = (torch.randn(rows, d, generator=draw, dtype=torch.float64) for rows in (n, c))
    # The first and the last class are targets, and one is the target twice.
    target = torch.tensor([0, c - 1, 4, 4, 7, 2])[:n] if c == C else torch.arange(n) % c
    return x.to(dtype), w.to(dtype), target


def values_and_gradients(loss, *given):
    """The losses, and the gradients of an uneven sum of them by all floating arguments."""
    given = [t.detach().clone() for t in given]
    leaves = [t.requires_grad_() for t in given if t.is_floating_point()]
    losses = loss(*given)
    uneven = torch.linspace(1, 2, len(losses), dtype=losses.dtype)
    return [losses.detach(), *torch.autograd.grad((uneven * losses).sum(), leaves)]


def taking(name, loss):
    """The loss with this argument in fourth place."""
    return lambda *given: loss(*given[:3], **{name: given[3]})


def same(found, due, tolerance):
    for ours, theirs in zip(found, due, strict=True):
        assert ours.dtype == theirs.dtype
        assert ours.shape == theirs.shape
        scale = theirs.abs().amax().clamp_min(1.0)
        assert (ours - theirs).abs().amax() <= tolerance * scale


# --- Computed and compared: the plain losses -------------------------------------------------


@pytest.mark.parametrize("block", [1, 2, 4, C, 100])
@pytest.mark.parametrize("name", PAIRS | SETTINGS)
def test_by_blocks_of_any_size_it_is_the_plain_loss(name, block):
    ours, plain = (PAIRS | SETTINGS)[name]
    x, w, target = batch()
    found = values_and_gradients(partial(ours, block=block), x, w, target)
    due = values_and_gradients(plain, x, w, target)
    # Sums of eleven terms in another order: a few units of the sixteenth digit, times scale 30.
    torch.testing.assert_close(found[0], due[0], rtol=1e-12, atol=1e-13)
    same(found, due, 1e-12)


@pytest.mark.parametrize("name", LINEAR)
def test_offsets_are_added_and_have_their_gradient(name):
    ours, plain = LINEAR[name]
    bias = torch.linspace(-1, 3, C, dtype=torch.float64)
    found, due = (
        values_and_gradients(taking("bias", loss), *batch(), bias)
        for loss in (partial(ours, block=4), plain)
    )
    same(found, due, 1e-12)


@each
def test_two_classes_leave_one_rival(name):
    ours, plain = PAIRS[name]
    for block in (1, 2):
        found = values_and_gradients(partial(ours, block=block), *batch(c=2))
        same(found, values_and_gradients(plain, *batch(c=2)), 1e-12)


@each
def test_gradients_agree_with_finite_differences(name):
    x, w, target = batch()
    loss = partial(PAIRS[name][0], target=target, block=4)
    assert torch.autograd.gradcheck(loss, (x.requires_grad_(), w.requires_grad_()))


@pytest.mark.parametrize("parameter", ["scale", "annealing", "margin", "alpha"])
def test_a_learnt_number_has_its_gradient(parameter):
    ours, plain = {
        "scale": (chunked.arcface_loss, ml.arcface_loss),
        "annealing": (chunked.l_softmax_loss, ml.l_softmax_loss),
        "margin": (chunked.cosface_loss, ml.cosface_loss),
        "alpha": (chunked.gaussian_mixture_loss, ml.gaussian_mixture_loss),
    }[parameter]
    number = torch.tensor(2.0, dtype=torch.float64)
    found, due = (
        values_and_gradients(taking(parameter, loss), *batch(), number) for loss in (ours, plain)
    )
    assert found[-1] != 0
    same(found, due, 1e-12)


def test_priors_have_their_gradient():
    priors = torch.arange(1.0, C + 1, dtype=torch.float64)
    found, due = (
        values_and_gradients(taking("priors", loss), *batch(), priors)
        for loss in (partial(chunked.gaussian_mixture_loss, block=4), ml.gaussian_mixture_loss)
    )
    same(found, due, 1e-12)


@each
def test_single_precision_keeps_five_digits_over_many_blocks(name):
    ours = partial(PAIRS[name][0], block=7)
    double = batch(n=5, c=1000, d=8)
    single = (double[0].float(), double[1].float(), double[2])
    due = values_and_gradients(ours, single[0].double(), single[1].double(), double[2])
    found = values_and_gradients(ours, *single)
    assert found[0].dtype == torch.float32
    for ours_, theirs in zip(found, due, strict=True):
        # Logits of 30 are rounded by 2e-6, and that is what a gradient is off by.
        assert (ours_ - theirs).abs().amax() <= 1e-5 * theirs.abs().amax()


@each
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened_first_and_rounded_once(name, dtype):
    x, w, target = batch(dtype=dtype)
    loss = partial(PAIRS[name][0], block=4)
    half = values_and_gradients(loss, x, w, target)
    wide = values_and_gradients(loss, x.float(), w.float(), target)
    assert half[0].dtype == torch.float32
    assert torch.equal(half[0], wide[0])
    for ours, theirs in zip(half[1:], wide[1:], strict=True):
        assert ours.dtype == dtype
        assert torch.equal(ours, theirs.to(dtype))


@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize("block", [1, 2, 3])
def test_logits_of_30000_are_finite_and_keep_six_digits(name, block):
    rows = [
        [3e4, -3e4, 1.0],
        [-3e4, 3e4, 2.5],
        [3e4, 3e4, 2.9e4],
        [3e4, 29999.5, 1.0],
        [-3e4, 3e4, 29999.5],
        [-3e4, -29999.5, -2.9e4],
    ]
    # One feature for each class, so that the features are the logits.
    for label in range(3):
        given = torch.tensor(rows), torch.eye(3), torch.full((len(rows),), label)
        found = values_and_gradients(partial(PAIRS[name][0], block=block), *given)
        due = values_and_gradients(PAIRS[name][1], given[0].double(), given[1].double(), given[2])
        for ours, theirs in zip(found[:2], due[:2], strict=True):
            torch.testing.assert_close(ours.double(), theirs, rtol=1e-6, atol=1e-6)
        # A class's gradient is a sum of features, here of six up to 30000 that partly cancel.
        same([found[2].double()], due[2:], 1e-6)


@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_logits_of_30000_are_finite_in_half_precision_too(name, dtype):
    rows = torch.tensor([[3e4, -3e4, 1.0], [-3e4, 3e4, 2.5], [3e4, 3e4, 2.9e4]]).to(dtype)
    for label in range(3):
        given = rows, torch.eye(3, dtype=dtype), torch.full((3,), label)
        found = values_and_gradients(partial(PAIRS[name][0], block=2), *given)
        wide = values_and_gradients(PAIRS[name][1], rows.double(), given[1].double(), given[2])
        torch.testing.assert_close(found[0].double(), wide[0], rtol=1e-6, atol=1e-6)
        # The features' gradient is at most 1; that of a class vector is a sum of features.
        assert found[1].isfinite().all()
        torch.testing.assert_close(found[1].double(), wide[1], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize("rival", [-1.6e38, 1.6e38])
def test_a_rival_near_the_end_of_single_precision_is_no_nan(name, rival):
    given = torch.tensor([[1.0]]), torch.tensor([[0.0], [rival]]), torch.tensor([0])
    found = PAIRS[name][0](*given)
    torch.testing.assert_close(found, PAIRS[name][1](*given))
    assert not found.isnan().any()


def test_softmax_and_disagreement_are_what_scipy_says_of_a_thousand_classes():
    x, w, target = batch(n=5, c=1000, d=8)
    f = (x @ w.mT).numpy()
    rivals = [np.delete(row, y) for row, y in zip(f, target.numpy())]
    softmax = [logsumexp(row) - row[y] for row, y in zip(f, target.numpy())]
    spread = [scipy_softmax(r) @ r - r.mean() for r in rivals]
    found = chunked.large_margin_loss(x, w, target, strength=0.8, block=64)
    # Sums of a thousand terms in float64, in two orders.
    np.testing.assert_allclose(found, np.add(softmax, np.multiply(0.4, spread)), rtol=1e-12)


@pytest.mark.parametrize("name", LINEAR)
def test_a_shift_common_to_all_logits_costs_less_than_a_millionth(name):
    x, w, target = batch(dtype=torch.float32)
    # Sixty-fourths, whose products float32 holds exactly beside 1024 too.
    x, w = ((4 * t).round() / 8 for t in (x, w))
    near, far = (
        PAIRS[name][0](x, w, target, bias=torch.full((C,), shift), block=4)
        for shift in (0.0, 1024.0)
    )
    assert ((far - near).abs() <= 1e-6 * near.abs()).all()


@each
def test_classes_that_all_tie_are_the_plain_loss_too(name):
    ours, plain = PAIRS[name]
    x, w, target = batch()
    given = x, w[:1].expand_as(w), target
    found = values_and_gradients(partial(ours, block=4), *given)
    same(found, values_and_gradients(plain, *given), 1e-12)


@each
def test_vectors_of_zeros_are_the_plain_loss_too(name):
    ours, plain = PAIRS[name]
    x, w, target = batch()
    x[0] = w[4] = w[5] = 0
    found = values_and_gradients(partial(ours, block=4), x, w, target)
    assert all(t.isfinite().all() for t in found)
    same(found, values_and_gradients(plain, x, w, target), 1e-12)


@each
def test_no_examples_have_no_losses_and_pull_at_no_class(name):
    losses, to_x, to_w = values_and_gradients(
        PAIRS[name][0], torch.zeros(0, D), torch.ones(C, D), torch.zeros(0).long()
    )
    assert losses.shape == (0,)
    assert to_x.shape == (0, D)
    assert to_w.eq(0).all()


@each
def test_autocast_leaves_the_precision_alone(name):
    x, w, target = batch(dtype=torch.float32)
    outside = values_and_gradients(PAIRS[name][0], x, w, target)
    with torch.autocast("cpu", torch.bfloat16):
        inside = values_and_gradients(PAIRS[name][0], x, w, target)
    assert all(torch.equal(a, b) for a, b in zip(inside, outside, strict=True))


# --- Computed and compared: torch's own, where this torch has it -----------------------------


@pytest.mark.skipif(
    not hasattr(functional, "linear_cross_entropy"), reason="this torch has no such function"
)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_torchs_own_linear_cross_entropy_agrees(smoothing):
    x, w, target = batch()
    bias = torch.linspace(-1, 3, C, dtype=torch.float64)
    given = x, w, target, bias

    def theirs(x, w, target, bias):
        # Its own blocks, of examples, know no smoothing.
        options = None if smoothing else torch.nn.LinearCrossEntropyOptions()
        return functional.linear_cross_entropy(
            x, w, target, linear_bias=bias, label_smoothing=smoothing, options=options
        )[None]

    def ours(x, w, target, bias):
        losses = chunked.label_smoothing_loss(x, w, target, smoothing, bias=bias, block=4)
        return losses.mean()[None]

    found, due = (values_and_gradients(loss, *given) for loss in (ours, theirs))
    for a, b in zip(found, due, strict=True):
        torch.testing.assert_close(a, b)


# --- Computed and compared: memory -----------------------------------------------------------


class Largest(TorchDispatchMode):
    """Remembers the largest number of elements that an operation returned in memory of its own."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        for t in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(t, torch.Tensor) and not t._is_view():
                self.numel = max(self.numel, t.numel())
        return result


def largest_of(loss):
    # Many examples of few features: beside (n, c) all else is small.
    n, c, d, block = 64, 5000, 4, 300
    draw = torch.Generator().manual_seed(0)
    x, w = (torch.randn(rows, d, generator=draw).requires_grad_() for rows in (n, c))
    with Largest() as largest:
        loss(x, w, torch.arange(n) * 70).sum().backward()
    return largest.numel, max(n * block, c * d), n * c


@each
def test_no_tensor_is_larger_than_a_blocks_logits_or_the_weight(name):
    ours, plain = PAIRS[name]
    largest, allowed, everything = largest_of(partial(ours, block=300))
    assert largest <= allowed
    # The plain loss shows that the instrument sees what it should.
    assert largest_of(plain)[0] >= everything


def test_memory_hardly_grows_with_the_examples_and_the_plain_losss_does():
    def peak(loss, n):
        return demonstration.peak(demonstration.Training(loss, n, 8, 20_000, CPU), CPU)

    ways = demonstration.ways(block=500)
    few, many = (peak(ways["ArcFace, by blocks"], n) for n in (10, 200))
    # Of n x block numbers there are never more than a handful.
    assert many - few <= 8 * 190 * 500 * 4
    assert peak(ways["ArcFace, plain"], 200) - peak(ways["ArcFace, plain"], 10) >= 190 * 20_000 * 4


def test_the_demonstration_tells_time_and_memory_and_stops_the_plain_heads(capsys):
    words = "--most 10000 --n 4 --d 2 --memory 0.0001 --rounds 1 --steps 3 --block 900"
    demonstration.main(words.split(" "))
    said = capsys.readouterr().out
    assert re.search(r"10000  softmax, plain +would take \d+ MiB", said)
    assert re.search(r"10000  softmax, by blocks +\d", said)
    *_, first, second, last = said.split()
    assert float(first) > float(second) > float(last)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--most 1", "--most must be 2 or more; got 1"),
        ("--n 0", "--n must be 1 or more; got 0"),
        ("--block 0", "--block must be 1 or more; got 0"),
        ("--rounds 0", "--rounds must be 1 or more; got 0"),
    ],
)
def test_the_demonstration_refuses_what_it_cannot_train(words, told, capsys):
    with pytest.raises(SystemExit):
        demonstration.main(words.split(" "))
    assert told in capsys.readouterr().err


# --- Told and checked ------------------------------------------------------------------------


@each
def test_a_signature_tells_the_truth_about_shapes(name):
    loss = PAIRS[name][0]
    function, parameters = getattr(loss, "func", loss), getattr(loss, "keywords", {})
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        jaxtyped(typechecker=beartype)(function)(*batch(dtype=dtype), **parameters)


def test_a_head_that_one_has_trains_by_blocks():
    class ByBlocks(ml.CosFaceHead):
        def losses(self, features, target):
            return chunked.cosface_loss(features, self.weight, target, self.scale, self.m, block=4)

    torch.manual_seed(0)
    head, plain = ByBlocks(D, C), ml.CosFaceHead(D, C)
    plain.load_state_dict(head.state_dict())
    x, _, target = batch(dtype=torch.float32)
    target[1] = -100  # ignored
    for module in (head, plain):
        module(x, target).backward()
    torch.testing.assert_close(head.weight.grad, plain.weight.grad)
    assert torch.equal(head.logits(x), plain.logits(x))


def test_a_backward_can_be_repeated_and_the_inputs_stay_as_they_were():
    x, w, target = batch()
    before = x.clone(), w.clone()
    w.requires_grad_()
    loss = chunked.arcface_loss(x, w, target, block=4).sum()
    (first,) = torch.autograd.grad(loss, w, retain_graph=True)
    (second,) = torch.autograd.grad(loss, w)
    assert torch.equal(first, second)
    assert torch.equal(x, before[0])
    assert torch.equal(w, before[1])


# Stepping over the pass, the compiler looks at the grad of what is no leaf, and is warned itself.
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
def test_a_compiled_training_step_leaves_the_pass_out_and_is_the_same():
    torch.compiler.reset()
    loss = partial(chunked.arcface_loss, block=4)
    compiled = torch.compile(loss, backend="aot_eager")
    same(values_and_gradients(compiled, *batch()), values_and_gradients(loss, *batch()), 1e-12)


# --- Refused ---------------------------------------------------------------------------------


@each
def test_what_a_plain_loss_refuses_is_refused_in_the_same_words(name):
    ours, _ = PAIRS[name]
    x, w, target = batch()
    for given, kind, words in (
        ((x, w[:, :2], target), ValueError, "expected features (n, d) and weight (c, d)"),
        ((x, w, target[:2]), ValueError, "expected features (n, d) and target (n,)"),
        ((x, w[:1], target * 0), ValueError, "a margin needs a rival"),
        ((x, w, target + 4), ValueError, "expected labels from 0 to 10"),
        ((x, w, target - 1), ValueError, "expected labels from 0 to 10"),
        ((x.long(), w, target), TypeError, "features must be floating point"),
        ((x, w, target.double()), TypeError, "target must hold class indices"),
    ):
        with pytest.raises(kind, match=re.escape(words)):
            ours(*given)


@each
@pytest.mark.parametrize(
    ("block", "kind"), [(0, ValueError), (-1, ValueError), (2.0, TypeError), ("all", TypeError)]
)
def test_a_block_is_a_whole_number_of_classes(name, block, kind):
    with pytest.raises(kind, match="block"):
        PAIRS[name][0](*batch(), block=block)


@pytest.mark.parametrize(
    ("loss", "given", "kind", "words"),
    [
        (chunked.soft_margin_loss, {"margin": float("inf")}, ValueError, "margin must be finite"),
        (chunked.large_margin_loss, {"strength": -1.0}, ValueError, "strength must be"),
        (chunked.large_margin_loss, {"divergence": torch.var}, ValueError, "kl_to_uniform; got"),
        (
            chunked.large_margin_loss,
            {"base": partial(ml.hinge_loss)},
            ValueError,
            "base must be marginlib's soft_margin_loss or softmax_loss; got functools.partial",
        ),
        (chunked.label_smoothing_loss, {"smoothing": 2.0}, ValueError, "between 0 and 1"),
        (chunked.l_softmax_loss, {"margin": 0.5}, ValueError, "margin must be at least 1"),
        (chunked.a_softmax_loss, {"annealing": -1.0}, ValueError, "annealing must be"),
        (chunked.normface_loss, {"scale": -1.0}, ValueError, "scale must be"),
        (chunked.cosface_loss, {"margin": "m"}, TypeError, "margin must be a number"),
        (chunked.arcface_loss, {"margin": 4.0}, ValueError, "margin must be between"),
        (chunked.arcface_loss, {"scale": -1.0}, ValueError, "scale must be"),
        (chunked.gaussian_mixture_loss, {"alpha": -1.0}, ValueError, "alpha must be"),
        (chunked.gaussian_mixture_loss, {"variances": torch.ones(C, D)}, ValueError, "identity"),
        (chunked.gaussian_mixture_loss, {"priors": torch.zeros(C)}, ValueError, "be positive"),
        (chunked.gaussian_mixture_loss, {"priors": torch.ones(2)}, ValueError, "expected priors"),
        (chunked.gaussian_mixture_loss, {"priors": [1.0]}, TypeError, "priors must be"),
        (chunked.softmax_loss, {"bias": torch.ones(2)}, ValueError, "expected bias (11,); got"),
        (chunked.softmax_loss, {"bias": torch.arange(C)}, TypeError, "bias must be"),
    ],
)
def test_parameters_out_of_range_are_refused(loss, given, kind, words):
    with pytest.raises(kind, match=re.escape(words)):
        loss(*batch(), **given)


@each
@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")  # torch's own forward mode
def test_what_it_cannot_differentiate_is_refused_in_a_sentence(name):
    x, w, target = batch()
    total = lambda x: PAIRS[name][0](x, w, target).sum()  # noqa: E731
    sentence = partial(pytest.raises, NotImplementedError, match="plain loss of the same name")
    for transform in (torch.func.grad, torch.func.jacfwd):
        with sentence():
            transform(total)(x)
    with sentence():
        torch.func.vmap(total)(x[None])
    with sentence(), torch.autograd.forward_ad.dual_level():
        total(torch.autograd.forward_ad.make_dual(x, x))
    leaf = x.clone().requires_grad_()
    with sentence():
        torch.autograd.grad(total(leaf), leaf, create_graph=True)
