"""Chapter 13: a slice of the classes on every rank, and the same head on every rank."""

import math
import os
import pickle
import re
import socket
import textwrap
import time
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.distributed.fsdp
from ranks import PATIENCE, RANKS, Ranks, forked
from torch.nn.functional import linear
from torch.nn.parallel import DistributedDataParallel

import marginlib as ml
from marginlib.scale import launch, replicated, sharded

N, C, D = 8, 11, 3


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    group = Ranks(tmp_path_factory.mktemp("ranks"))
    yield group
    group.close()


def of_logits(loss):
    """A loss of logits as a function of features, weight and target."""
    return lambda x, w, y, bias=None: loss(linear(x, w, bias), y)


soft = partial(ml.soft_margin_loss, margin=0.7)
LOGITS = {
    "softmax": ml.softmax_loss,
    "soft margin": soft,
    "hinge": partial(ml.hinge_loss, bias=2.0),
    "hard bias": ml.hard_bias_loss,
    "large margin": ml.large_margin_loss,
    "large margin, to uniform": partial(
        ml.large_margin_loss, divergence=ml.kl_to_uniform, strength=2.0
    ),
    "large margin, from uniform": partial(
        ml.large_margin_loss, divergence=ml.kl_from_uniform, strength=2.0
    ),
    "large margin on a soft margin": partial(ml.large_margin_loss, base=soft),
    "large margin on a hinge": partial(ml.large_margin_loss, base=ml.hinge_loss),
    "label smoothing": partial(ml.label_smoothing_loss, smoothing=0.2),
}
PRIORS = torch.arange(1.0, C + 1).double()
FEATURES = {
    "L-Softmax": partial(ml.l_softmax_loss, margin=2.5, annealing=3.0),
    "A-Softmax": ml.a_softmax_loss,
    "NormFace": ml.normface_loss,
    "CosFace": ml.cosface_loss,
    "ArcFace": ml.arcface_loss,
    "mixture": partial(ml.gaussian_mixture_loss, alpha=0.3, margin=0.5),
    "mixture, priors": partial(ml.gaussian_mixture_loss, priors=PRIORS),
}
LOSSES = LOGITS | FEATURES
each = pytest.mark.parametrize("name", LOSSES)
fsdp2 = pytest.mark.skipif(
    not hasattr(torch.distributed.fsdp, "fully_shard"),
    reason="fully_shard is public from torch 2.6",
)
two_and_four = pytest.mark.parametrize("count", [2, RANKS])


def plain(name):
    return of_logits(LOGITS[name]) if name in LOGITS else FEATURES[name]


def batch(c=C, dtype=torch.float64):
    draw = torch.Generator().manual_seed(c)
    x, w = (torch.randn(rows, D, generator=draw, dtype=torch.float64) for rows in (N, c))
    # The first and the last class are targets, and one is the target twice.
    target = torch.tensor([0, c - 1, 4, 4, 7, 2, 1, 5]) % c
    return x.to(dtype), w.to(dtype), target


def set_whole(parameter, whole):
    """Give each rank its slice; the slices are torch.chunk's."""
    local = parameter.to_local()
    first = parameter.device_mesh.get_local_rank() * math.ceil(
        len(whole) / parameter.device_mesh.size()
    )
    local.data.copy_(whole[first : first + len(local)])


def made(mesh, loss, x, w, bias=None, **options):
    head = sharded.ShardedHead(D, len(w), loss, mesh=mesh, bias=bias is not None, **options)
    head.to(w.dtype)
    set_whole(head.weight, w)
    if bias is not None:
        set_whole(head.bias, bias)
    return head


def own(mesh, rows):
    """This rank's share of the rows."""
    return rows.chunk(mesh.size())[mesh.get_local_rank()]


def value_and_gradients(mesh, loss, x, w, target, bias=None, **options):
    """The loss, and the gradients by this rank's rows, all class vectors and all offsets."""
    head = made(mesh, loss, x, w, bias, **options)
    if head.own_rows:
        x, target = own(mesh, x), own(mesh, target)
    x = x.detach().clone().requires_grad_()
    losses = head(x, target)
    uneven = torch.linspace(1, 2, losses.numel(), dtype=losses.dtype)
    (losses * uneven).sum().backward()
    gradients = [parameter.grad.full_tensor() for parameter in head.parameters()]
    return losses.detach(), x.grad, *gradients


WHOLE = partial(value_and_gradients, reduction="none")


def due(loss, *given):
    """The same for all rows in one process, by the plain loss."""
    leaves = [t.detach().clone() for t in given]
    for t in leaves:
        if t.is_floating_point():
            t.requires_grad_()
    losses = loss(*leaves)
    uneven = torch.linspace(1, 2, losses.numel(), dtype=losses.dtype)
    x, w, _, *rest = leaves
    gradients = torch.autograd.grad((losses * uneven).sum(), [x, w, *rest])
    return losses.detach(), *gradients


def compared(answers, wanted, tolerance, own_rows=True):
    for rank, (losses, by_x, *by_parameters) in enumerate(answers):
        values, slope, *slopes = wanted
        if own_rows:
            # DistributedDataParallel divides by the number of ranks.
            slope = len(answers) * slope.chunk(len(answers))[rank]
        for ours, theirs in zip(
            (losses, by_x, *by_parameters), (values, slope, *slopes), strict=True
        ):
            assert ours.dtype == theirs.dtype
            assert ours.shape == theirs.shape
            scale = theirs.abs().amax().clamp_min(1.0)
            assert (ours - theirs).abs().amax() <= tolerance * scale


# --- Computed and compared: the plain losses, in one process ---------------------------------


@each
@two_and_four
def test_slices_of_the_classes_are_the_plain_loss_and_its_gradients(ranks, name, count):
    given = batch()
    found = ranks.do(WHOLE, LOSSES[name], *given, ranks=count)
    # Sums of eleven terms in another order: a few units of the sixteenth digit, times scale 30.
    compared(found, due(plain(name), *given), 1e-12)


@pytest.mark.parametrize("name", sorted(set(LOSSES) - {"mixture, priors"}))
def test_slices_may_be_uneven_and_the_last_ones_empty(ranks, name):
    # Of 5 classes the four ranks hold 2, 2, 1 and none.
    given = batch(c=5)
    found = ranks.do(WHOLE, LOSSES[name], *given)
    compared(found, due(plain(name), *given), 1e-12)


@pytest.mark.parametrize("name", sorted(set(LOSSES) - {"mixture, priors"}))
def test_single_precision_is_within_a_millionth(ranks, name):
    given = batch(c=1000, dtype=torch.float32)
    wide = [t.double() if t.is_floating_point() else t for t in given]
    found = ranks.do(WHOLE, LOSSES[name], *given)
    # The plain loss in float64.  A product and a sum of 250 terms are off by a few units of the
    # seventh digit of the largest, and four slices add up four such sums.
    in_double = [[t.double() for t in answer] for answer in found]
    compared(in_double, due(plain(name), *wide), 1e-6)


@pytest.mark.parametrize("name", LOGITS)
def test_offsets_are_parted_too(ranks, name):
    bias = torch.linspace(-1, 3, C, dtype=torch.float64)
    found = ranks.do(WHOLE, LOGITS[name], *batch(), bias)
    compared(found, due(plain(name), *batch(), bias), 1e-12)


@each
def test_rows_that_all_ranks_share_count_once_and_are_read_by_blocks(ranks, name):
    found = ranks.do(partial(WHOLE, own_rows=False, block=2), LOSSES[name], *batch())
    compared(found, due(plain(name), *batch()), 1e-12, own_rows=False)


def likelihood(x, means, target):
    return 0.5 * ml.gaussian_nll(x, means, target)


def test_a_penalty_on_the_targets_own_class_vector_is_added(ranks):
    loss = partial(ml.gaussian_mixture_loss, alpha=0.2)
    found = ranks.do(partial(WHOLE, penalty=likelihood), loss, *batch())

    def whole(x, means, target):
        return loss(x, means, target) + likelihood(x, means, target)

    compared(found, due(whole, *batch()), 1e-12)


CLASS_WEIGHT = torch.linspace(0.5, 2, C, dtype=torch.float64)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_class_weights_and_ignored_rows_are_those_of_all_ranks(ranks, reduction):
    x, w, target = batch()
    target[:3] = -100  # of the four ranks' pairs of rows: both, one, none and none
    options = {"class_weight": CLASS_WEIGHT, "reduction": reduction}
    found = ranks.do(partial(value_and_gradients, **options), ml.arcface_loss, x, w, target)
    head = ml.ArcFaceHead(D, C, **options).double()

    def whole(x, w, target):
        losses = torch.func.functional_call(head, {"weight": w}, (x, target))
        return losses

    compared(found, due(whole, x, w, target), 1e-12)


@pytest.mark.parametrize("name", ["softmax", "large margin", "hinge", "ArcFace", "mixture"])
def test_half_precision_is_widened_first_and_a_classs_gradient_rounded_once(ranks, name):
    x, w, target = batch(dtype=torch.bfloat16)
    for half, wide in zip(
        ranks.do(WHOLE, LOSSES[name], x, w, target, ranks=2),
        ranks.do(WHOLE, LOSSES[name], x.float(), w.float(), target, ranks=2),
    ):
        assert half[0].dtype == torch.float32
        assert torch.equal(half[0], wide[0])
        # Rounded on each rank before the sum over two of them, and once after: to a 256th each.
        torch.testing.assert_close(half[1].float(), wide[1], rtol=0.02, atol=0.02)
        assert torch.equal(half[2], wide[2].bfloat16())


@pytest.mark.parametrize("name", LOGITS)
def test_logits_of_30000_are_finite_and_keep_six_digits(ranks, name):
    rows = [[3e4, -3e4, 1.0, 0.0], [-3e4, 3e4, 2.5, 3e4], [3e4, 29999.5, 1.0, 3e4]]
    # One feature for each class, so that the features are the logits.
    x, w, target = torch.tensor(rows + rows[:1]), torch.eye(4), torch.tensor([1, 0, 1, 3])
    found = ranks.do(partial(wide_head, own_rows=False), LOSSES[name], x, w, target)
    wanted = due(plain(name), x.double(), w.double(), target)
    for losses, by_x, *_ in found:
        torch.testing.assert_close(losses.double(), wanted[0], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(by_x.double(), wanted[1], rtol=1e-6, atol=1e-6)


def wide_head(mesh, loss, x, w, target, **options):
    """As value_and_gradients, with as many features as classes."""
    head = sharded.ShardedHead(w.shape[1], len(w), loss, mesh=mesh, reduction="none", **options)
    set_whole(head.weight, w)
    x = x.clone().requires_grad_()
    losses = head(x, target)
    (losses * torch.linspace(1, 2, len(losses))).sum().backward()
    return losses.detach(), x.grad


def logits_of(mesh, loss, x, w, bias=None):
    head = made(mesh, loss, x, w, bias)
    every = made(mesh, loss, x, w, bias, own_rows=False)
    with torch.no_grad():
        return head.logits(own(mesh, x)), every.logits(x)


@pytest.mark.parametrize(
    ("loss", "plain_logits"),
    [
        (ml.softmax_loss, linear),
        (ml.l_softmax_loss, linear),
        (ml.a_softmax_loss, ml.a_softmax_logits),
        (partial(ml.arcface_loss, scale=7.0), partial(ml.cosine_logits, scale=7.0)),
        (
            partial(ml.gaussian_mixture_loss, priors=PRIORS),
            partial(ml.gaussian_logits, priors=PRIORS),
        ),
    ],
)
def test_logits_are_the_plain_ones_of_all_classes(ranks, loss, plain_logits):
    x, w, _ = batch()
    wanted = plain_logits(x, w)
    for rank, (own_rows, every) in enumerate(ranks.do(logits_of, loss, x, w)):
        # Differences of squares of the size of 10, to sixteen digits.
        torch.testing.assert_close(own_rows, wanted.chunk(RANKS)[rank], rtol=0, atol=1e-13)
        torch.testing.assert_close(every, wanted, rtol=0, atol=1e-13)


# --- Computed and compared: torch's own loss over parted classes ------------------------------


def by_loss_parallel(mesh, x, w, target):
    """What torch has for the softmax loss: DTensor logits under loss_parallel."""
    from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
    from torch.distributed.tensor.parallel import loss_parallel

    x = DTensor.from_local(x, mesh, [Replicate()]).requires_grad_()
    w = distribute_tensor(w, mesh, [Shard(0)]).requires_grad_()
    with loss_parallel():
        loss = torch.nn.functional.cross_entropy(x @ w.mT, target)
        loss.backward()
    return loss.full_tensor().detach(), x.grad.full_tensor(), w.grad.full_tensor()


@two_and_four
def test_torchs_loss_parallel_agrees_on_the_softmax_loss(ranks, count):
    given = batch()
    found = ranks.do(
        partial(value_and_gradients, own_rows=False), ml.softmax_loss, *given, ranks=count
    )
    theirs = ranks.do(by_loss_parallel, *given, ranks=count)
    for ours, wanted in zip(found, theirs):
        for one, other in zip(ours, wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)


# --- Computed and compared: a sample of the classes -------------------------------------------

MANY, RATE = 203, 0.3


def sampled(mesh, loss, x, w, target, bias=None):
    torch.manual_seed(7 + mesh.get_local_rank())
    return value_and_gradients(mesh, loss, x, w, target, bias, reduction="none", rate=RATE)


@pytest.mark.parametrize(
    "name", ["softmax", "large margin", "label smoothing", "ArcFace", "mixture"]
)
@two_and_four
def test_a_sample_keeps_the_targets_and_is_the_plain_loss_of_its_classes(ranks, name, count):
    x, w, target = batch(c=MANY)
    found = ranks.do(sampled, LOSSES[name], x, w, target, ranks=count)
    # Each class that is looked at has a gradient, and no other has.
    seen = found[0][2].ne(0).any(dim=1)
    assert seen[target].all()
    sizes = [len(part) for part in w.chunk(count)]
    held = [int(part.sum()) for part in seen.chunk(count)]
    assert held == [math.ceil(RATE * size) for size in sizes]
    place = seen.cumsum(0) - 1
    values, by_x, by_w = due(plain(name), x, w[seen], place[target])
    whole = torch.zeros_like(w)
    whole[seen] = by_w
    compared(found, (values, by_x, whole), 1e-12)


def test_a_sample_of_offsets_goes_with_that_of_the_class_vectors(ranks):
    x, w, target = batch(c=MANY)
    bias = torch.linspace(-1, 3, MANY, dtype=torch.float64)
    found = ranks.do(sampled, ml.softmax_loss, x, w, target, bias)
    seen = found[0][3].ne(0)
    place = seen.cumsum(0) - 1
    values, by_x, *by_own = due(plain("softmax"), x, w[seen], place[target], bias[seen])
    by_all = [torch.zeros_like(w), torch.zeros_like(bias)]
    for whole, own_part in zip(by_all, by_own):
        whole[seen] = own_part
    compared(found, (values, by_x, *by_all), 1e-12)


def test_a_sample_of_priors_goes_with_that_of_the_class_vectors(ranks):
    x, w, target = batch(c=MANY)
    priors = torch.arange(1.0, MANY + 1, dtype=torch.float64)
    loss = partial(ml.gaussian_mixture_loss, priors=priors)
    found = ranks.do(sampled, loss, x, w, target)
    seen = found[0][2].ne(0).any(dim=1)
    place = seen.cumsum(0) - 1
    loss = partial(ml.gaussian_mixture_loss, priors=priors[seen])
    values, by_x, by_w = due(loss, x, w[seen], place[target])
    whole = torch.zeros_like(w)
    whole[seen] = by_w
    compared(found, (values, by_x, whole), 1e-12)


def how_often(mesh, w, target, steps):
    """How often each class was in the sample, over so many steps."""
    torch.manual_seed(mesh.get_local_rank())
    head = made(mesh, ml.softmax_loss, w, w, own_rows=False, rate=RATE)
    count = torch.zeros(len(w))
    for _ in range(steps):
        head(torch.ones(len(target), D, dtype=w.dtype), target).backward()
        count += head.weight.grad.full_tensor().ne(0).any(dim=1)
        head.zero_grad()
    head.eval()
    head(torch.ones(len(target), D, dtype=w.dtype), target).backward()
    return count, head.weight.grad.full_tensor().ne(0).any(dim=1).all()


def test_samples_are_drawn_afresh_all_classes_alike_and_not_in_evaluation(ranks):
    _, w, _ = batch(c=120)
    target, steps = torch.tensor([5]), 30
    (count, every), *_ = ranks.do(how_often, w, target, steps)
    assert count[5] == steps
    # Binomial, 30 draws with probability 0.3 (where the target is, 8 of the other 29): five
    # deviations of 2.5 around 9, cut at 1 below.
    others = torch.cat([count[:5], count[6:]])
    assert others.min() >= 1
    assert others.max() <= 21
    assert every


# --- Computed and compared: what is sent ------------------------------------------------------


def sent(mesh, loss, n, d, c, own_rows):
    head = sharded.ShardedHead(d, c, loss, mesh=mesh, own_rows=own_rows)
    x, target = torch.randn(n, d, requires_grad=True), torch.arange(n) % c
    with sharded.Traffic() as traffic:
        head(x, target).backward()
    return traffic.bytes, traffic.get_total_counts()


@pytest.mark.parametrize("c", [100, 1000])
@pytest.mark.parametrize(
    ("loss", "numbers"),
    # A row's numbers: the target's logit and sum e^f; the margin; two means.
    [(ml.softmax_loss, 2), (ml.arcface_loss, 3), (ml.large_margin_loss, 4)],
)
def test_a_step_sends_the_features_and_a_few_numbers_whatever_the_classes(ranks, loss, numbers, c):
    n, d = 6, 32
    rows = n * RANKS
    for found, count in ranks.do(sent, loss, n, d, c, True):
        assert found == {
            "all_gather_into_tensor": [4 * rows * d, 8 * rows],  # features, labels
            # A check, on the CPU alone; the strongest rivals; the sums.
            "all_reduce": [16, 4 * rows, 4 * rows * numbers],
            "reduce_scatter_tensor": [4 * rows * d],  # the features' gradients
        }
        assert count == 6


def test_rows_that_are_shared_need_not_be_gathered(ranks):
    for found, _ in ranks.do(sent, ml.softmax_loss, 6, 32, 100, False):
        assert found == {"all_reduce": [4 * 6, 4 * 6 * 2, 4 * 6 * 32]}


def test_traffic_is_told_in_a_line_for_each_kind():
    traffic = sharded.Traffic()
    traffic.bytes = {"all_reduce": [4, 1000], "broadcast": [1]}
    *kinds, last = str(traffic).splitlines()
    assert [line.split()[0] for line in kinds] == ["all_reduce", "broadcast"]
    assert last.split() == ["together", "3", "times", "1,005", "bytes"]


# --- Computed and compared: checkpoints -------------------------------------------------------


def written(mesh, folder, w, bias):
    import torch.distributed.checkpoint as dcp

    head = made(mesh, ml.softmax_loss, w, w, bias)
    dcp.save({"head": head.state_dict()}, checkpoint_id=folder)


def read(mesh, folder, x, target, w, bias):
    """By ranks two and two: each pair reads what four have written."""
    import torch.distributed.checkpoint as dcp

    head = made(mesh, ml.softmax_loss, x, 0 * w, 0 * bias, own_rows=False)
    state = {"head": head.state_dict()}
    dcp.load(state, checkpoint_id=folder, process_group=mesh.get_group())
    head.load_state_dict(state["head"])
    found = head.weight.full_tensor(), head.bias.full_tensor(), head(x, target)
    return [t.detach() for t in found]


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")  # so it is, here
def test_what_four_ranks_wrote_two_ranks_and_a_plain_head_on_one_read(ranks, tmp_path):
    import torch.distributed.checkpoint as dcp

    x, w, target = batch()
    bias = torch.linspace(-1, 3, C, dtype=torch.float64)
    ranks.do(written, tmp_path / "saved", w, bias)
    plain_head = ml.LinearHead(D, C).double()
    state = {"head": plain_head.state_dict()}
    dcp.load(state, checkpoint_id=tmp_path / "saved", no_dist=True)
    plain_head.load_state_dict(state["head"])
    assert torch.equal(plain_head.weight, w)
    assert torch.equal(plain_head.bias, bias)
    loss = plain_head(x, target).detach()
    for found in ranks.do(read, tmp_path / "saved", x, target, w, bias, ranks=2):
        assert torch.equal(found[0], w)
        assert torch.equal(found[1], bias)
        torch.testing.assert_close(found[2], loss, rtol=1e-12, atol=0)


def start(mesh, c):
    torch.manual_seed(3 + 5 * mesh.get_local_rank())  # the first rank's seed counts
    head = sharded.ShardedHead(2, c, mesh=mesh, bias=True)
    return head.weight.full_tensor().detach(), head.bias.full_tensor().detach()


def test_the_start_depends_on_the_seed_and_not_on_the_number_of_ranks(ranks):
    c = 2 * sharded.DRAWN + 17
    (weight, bias), *others = [*ranks.do(start, c), *ranks.do(start, c, ranks=2)]
    for other in others:
        assert torch.equal(other[0], weight)
        assert torch.equal(other[1], bias)
    # Uniform to 1 / sqrt(2), as torch.nn.Linear draws: mean 0 and variance 1 / 6 to a few
    # deviations of a mean of 16,000, and no two class vectors alike.
    assert weight.abs().max() < 2**-0.5
    assert abs(weight.mean()) < 0.02
    assert abs(weight.var() - 1 / 6) < 0.01
    assert len(weight.unique(dim=0)) == c


# --- Computed and compared: the same head on every rank ---------------------------------------

G = 6  # features, so that groups can be told apart
HEADS = {
    "LinearHead": ml.LinearHead,
    "LSoftmaxHead": ml.LSoftmaxHead,
    "ASoftmaxHead": ml.ASoftmaxHead,
    "NormFaceHead": ml.NormFaceHead,
    "CosFaceHead": ml.CosFaceHead,
    "ArcFaceHead": ml.ArcFaceHead,
    "GaussianHead": partial(ml.GaussianHead, alpha=0.2, variances="diagonal"),
    "CenterHead": ml.CenterHead,
    "GroupHead": partial(ml.GroupHead, groups=(1, 2, 4), grouping=replicated.shared_grouping()),
    "EnsembleHead": partial(ml.EnsembleHead, classifiers=3, margin=0.5),
    "VirtualSoftmaxHead": ml.VirtualSoftmaxHead,
    "NoisySoftmaxHead": ml.NoisySoftmaxHead,
    "DropoutHead": partial(ml.DropoutHead, adversarial=True),
}
DRAWS = {"NoisySoftmaxHead": ml.NoisySoftmaxHead, "DropoutHead, by chance": ml.DropoutHead}


def head_and_batch(kind, **options):
    torch.manual_seed(11)
    head = kind(G, C, **options).double()
    return head, torch.randn(N, G, dtype=torch.float64), torch.tensor([0, 10, 4, 4, 7, 2, 1, 5])


def gradients(module):
    return [parameter.grad for parameter in module.parameters()]


def in_one_process(kind):
    """The whole batch at once; no group, and so nothing to share."""
    head, x, target = head_and_batch(kind)
    loss = head(x, target)
    loss.backward()
    return [loss.detach(), *gradients(head)]


def wrapped(head, mesh, how):
    if how == "ddp":
        return DistributedDataParallel(head, process_group=mesh.get_group())
    from torch.distributed.fsdp import fully_shard

    return fully_shard(head, mesh=mesh)


def in_parallel(mesh, kinds, how):
    """Each head's mean loss and gradients, each rank with its rows."""
    found = {}
    for name, kind in kinds.items():
        head, x, target = head_and_batch(kind)
        module = wrapped(head, mesh, how)
        loss = module(own(mesh, x), own(mesh, target))
        loss.backward()
        total = loss.detach().clone()
        dist.all_reduce(total, group=mesh.get_group())
        slopes = [g.full_tensor() if how == "fsdp" else g for g in gradients(module)]
        found[name] = [total / mesh.size(), *slopes]
    return found


# Those that draw are tested on their own; in evaluation there is nothing to draw.
AS_THEY_ARE = {name: head for name, head in HEADS.items() if name not in DRAWS}


@pytest.mark.parametrize("how", ["ddp", pytest.param("fsdp", marks=fsdp2)])
@two_and_four
def test_every_head_as_it_is_averages_to_the_whole_batchs_gradient(ranks, how, count):
    every = ranks.do(in_parallel, AS_THEY_ARE, how, ranks=count)
    for name, kind in AS_THEY_ARE.items():
        wanted = in_one_process(kind)
        for found in every:
            for ours, theirs in zip(found[name], wanted, strict=True):
                # A mean of means, in another order.
                torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13, msg=name)


def seeded(mesh, kinds):
    torch.manual_seed(mesh.get_local_rank())
    return {name: drawn(kind, mesh.get_local_rank(), mesh) for name, kind in kinds.items()}


def drawn(kind, rank, mesh=None):
    """The gradients of one rank's rows alone, or, in a mesh, what all ranks average to."""
    head, x, target = head_and_batch(kind)
    module = head if mesh is None else wrapped(head, mesh, "ddp")
    torch.manual_seed(rank)
    module(x.chunk(RANKS)[rank], target.chunk(RANKS)[rank]).backward()
    return gradients(module)


def test_heads_that_draw_average_what_each_rank_drew(ranks):
    for found in ranks.do(seeded, DRAWS):
        for name, kind in DRAWS.items():
            apart = [drawn(kind, rank) for rank in range(RANKS)]
            for ours, *theirs in zip(found[name], *apart, strict=True):
                wanted = torch.stack(theirs).mean(dim=0)
                torch.testing.assert_close(ours, wanted, rtol=1e-12, atol=1e-13)


def groupings(mesh, grouping):
    """The groups that each rank finds from its own rows."""
    head, x, target = head_and_batch(ml.GroupHead)
    score = ml.discriminativity(own(mesh, x), head.weight.detach(), None, own(mesh, target))
    torch.manual_seed(mesh.get_local_rank())
    return [part.tolist() for part in grouping(score, 4)]


@pytest.mark.parametrize("grouping", [ml.discriminative_groups, ml.random_groups])
@two_and_four
def test_a_grouping_of_ones_own_rows_differs_and_a_shared_one_agrees(ranks, grouping, count):
    alone = ranks.do(groupings, grouping, ranks=count)
    assert any(groups != alone[0] for groups in alone)
    # The two pairs are in one group of four; their mean is the mean of either.
    shared = ranks.do(groupings, replicated.shared_grouping(grouping), ranks=count)
    assert all(groups == shared[0] for groups in shared)
    assert sorted(j for group in shared[0] for j in group) == list(range(G))
    if grouping is ml.discriminative_groups:
        head, x, target = head_and_batch(ml.GroupHead)
        score = ml.discriminativity(x, head.weight.detach(), None, target)
        assert shared[0] == [part.tolist() for part in grouping(score, 4)]


def uneven(mesh, kind):
    """Ranks with unlike rows: of the first, all are ignored; the last has one more."""
    head, x, target = head_and_batch(kind, reduction="none", class_weight=CLASS_WEIGHT)
    target[0] = -100
    sizes = [1, *[2] * (mesh.size() - 2), N + 3 - 2 * mesh.size()]
    rank = mesh.get_local_rank()

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.head = head

        def forward(self, x, target):
            return replicated.mean_over_ranks(self.head, x, target, mesh.get_group())

    module = DistributedDataParallel(Network(), process_group=mesh.get_group())
    loss = module(x.split(sizes)[rank], target.split(sizes)[rank])
    loss.backward()
    total = loss.detach().clone()
    dist.all_reduce(total, group=mesh.get_group())
    return [total / mesh.size(), *gradients(module)]


@two_and_four
def test_a_mean_over_ranks_weighs_every_row_as_one_process_does(ranks, count):
    head, x, target = head_and_batch(ml.ArcFaceHead, class_weight=CLASS_WEIGHT)
    target[0] = -100
    loss = head(x, target)
    loss.backward()
    for found in ranks.do(uneven, ml.ArcFaceHead, ranks=count):
        for ours, theirs in zip(found, [loss.detach(), *gradients(head)], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)


def outside_forward(mesh):
    """What else a head can do needs its whole weight; torch gathers it for methods it is told."""
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    head, x, target = head_and_batch(ml.ArcFaceHead)
    wanted = head.logits(x).detach(), head.margin(x, target).detach()
    fully_shard(head, mesh=mesh)
    register_fsdp_forward_method(head, "logits")
    register_fsdp_forward_method(head, "margin")
    with torch.no_grad():
        return [head.logits(x), head.margin(x, target)], wanted


@fsdp2
def test_under_fsdp_torch_has_to_be_told_of_logits_and_margin(ranks):
    for found, wanted in ranks.do(outside_forward):
        torch.testing.assert_close(found, list(wanted))


# --- Told and checked: the page ---------------------------------------------------------------

PAGE = (Path(__file__).resolve().parents[1] / "book" / "devices.md").read_text(encoding="utf-8")


def test_the_pages_bytes_are_those_of_its_formulas_which_are_those_that_are_counted():
    # The formulas are held to the count by test_a_step_sends_the_features_and_a_few_numbers.
    ranks, rows, d = 8, 1024, 512
    step = [4 * rows * d, 8 * rows, 4 * rows, 4 * rows * 3, 4 * rows * d]
    assert f"{2 * sum(step):,} bytes travel" in PAGE
    for bytes_ in step:
        assert f"{bytes_:,}".replace(",", "\\,") in PAGE
    for c in (10**6, 10**7):
        whole = 4 * c * d
        told = [c, sum(step), whole, round(whole / sum(step)), whole // ranks]
        assert "| " + " | ".join(f"{number:,}" for number in told) + " |" in PAGE
    # The class vectors, their gradient and their momentum.
    assert f"{3 * 4 * 10**7 * d / 10**9:.0f} GB on each device" in PAGE


def test_what_the_page_shows_runs(tmp_path, monkeypatch):
    for name, value in surroundings(0, 1).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    shown = {}
    try:
        for block in re.findall(r"^ *```python\n(.*?)^ *```", PAGE, re.MULTILINE | re.DOTALL):
            exec(textwrap.dedent(block), shown)
    finally:
        dist.destroy_process_group()
    assert (tmp_path / "saved" / ".metadata").exists()


# --- Told and checked: a run that is killed goes on -------------------------------------------

RUN = "--classes 300 --features 8 --rows 16 --every 5 --timeout 100 --dtype float64".split()  # noqa: SIM905
CURVE = re.compile(r"^step (\d+) loss ([\d.]+)$", re.MULTILINE)


def surroundings(rank, ranks):
    """What torchrun tells a process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "MASTER_PORT": port}
    return {name: str(value) for name, value in told.items()} | {"MASTER_ADDR": "127.0.0.1"}


def curve(text):
    return {int(step): float(loss) for step, loss in CURVE.findall(text)}


def one_process(steps, monkeypatch, capsys):
    """The losses of a run on one rank that nobody interrupts."""
    for name, value in surroundings(0, 1).items():
        monkeypatch.setenv(name, value)
    before = torch.get_default_dtype()
    try:
        launch.main([*RUN, "--steps", str(steps)])
    finally:
        torch.set_default_dtype(before)
    return curve(capsys.readouterr().out)


def run(told, words, output):
    """The script in a process of its own, which finds torch imported."""
    os.environ.update(told)
    file = os.open(output, os.O_WRONLY | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(file, stream)
    launch.main(words)


def test_a_dead_rank_ends_the_run_and_the_last_checkpoint_goes_on_as_if_nothing_had_been(
    tmp_path, monkeypatch, capsys
):
    words, told = [*RUN, "--save", str(tmp_path / "run"), "--steps"], surroundings(0, 2)
    outputs = [tmp_path / "first", tmp_path / "second"]
    alive, dead = processes = [
        forked().Process(target=run, args=(told | {"RANK": str(rank)}, [*words, "1000000"], output))
        for rank, output in enumerate(outputs)
    ]
    try:
        for process in processes:
            process.start()
        patience = time.monotonic() + PATIENCE
        while 7 not in (seen := curve(outputs[0].read_text() if outputs[0].exists() else "")):
            assert time.monotonic() < patience
            alive.join(0.05)
        dead.kill()
        alive.join(100)  # as long as --timeout
        assert alive.exitcode == 1
    finally:
        for process in processes:
            process.kill()
    said = outputs[0].read_text()
    sentence = "another rank has died or does not answer; the same command goes on from the last"
    assert f"rank 0 stops: {sentence} checkpoint." in said
    assert "Traceback" not in said
    last = int(launch.saved(tmp_path / "run")[-1].name.removeprefix("step-"))
    assert last % 5 == 0
    assert last >= 5
    resumed, seen = by_torchrun([*words, str(last + 3)], tmp_path), curve(said)
    assert f"going on from step-{last:08}" in resumed
    resumed = curve(resumed)
    assert sorted(resumed) == [last, last + 1, last + 2]
    whole = one_process(last + 3, monkeypatch, capsys)
    # Sums on two ranks in another order, in float64, over some steps; told to 8 digits.
    close = partial(pytest.approx, rel=1e-7, abs=2e-8)
    assert {step: seen[step] for step in range(last)} == close({s: whole[s] for s in range(last)})
    assert resumed == close({step: whole[step] for step in resumed})


def by_torchrun(words, folder):
    """What two ranks print, started by the engine of torchrun."""
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=2,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        start_method=forked().get_start_method(),
        max_restarts=0,
    )
    output = folder / "resumed"
    elastic_launch(config, run_and_tell)(words, output)
    return output.with_suffix(".0").read_text()


def run_and_tell(words, output):
    run({}, words, output.with_suffix(f".{os.environ['RANK']}"))


def test_a_checkpoint_that_was_not_finished_is_passed_over_and_two_are_kept(
    tmp_path, monkeypatch, capsys
):
    for name, value in surroundings(0, 1).items():
        monkeypatch.setenv(name, value)
    before = torch.get_default_dtype()
    words = [*RUN, "--classes", "20", "--rows", "64", "--loss", "softmax", "--rate", "0.9"]
    words += ["--save", str(tmp_path), "--steps"]
    try:
        launch.main([*words, "15"])
        assert [path.name for path in launch.saved(tmp_path)] == ["step-00000010", "step-00000015"]
        (tmp_path / "step-00000015" / ".metadata").unlink()
        first = curve(capsys.readouterr().out)
        launch.main([*words, "15"])
    finally:
        torch.set_default_dtype(before)
    said = capsys.readouterr().out
    assert "going on from step-00000010" in said
    # What a step draws depends on the step, so the sample of classes is the same again.
    assert curve(said) == {step: loss for step, loss in first.items() if step >= 10}
    assert first[14] < first[0]  # it learns


# --- Refused ---------------------------------------------------------------------------------


def refusal(mesh, make, call):
    """What is raised when a head is made from ``make``, or called with ``call``."""
    x, _, target = batch()
    try:
        head = sharded.ShardedHead(D, **({"num_classes": C, "mesh": mesh} | make)).double()
        given = {"features": x, "target": target} | call
        head(**given)
    except (ValueError, TypeError) as error:
        return type(error), str(error)


@pytest.mark.parametrize(
    ("make", "call", "kind", "words"),
    [
        ({"num_classes": 3}, {}, ValueError, "a class or more for each of 4 ranks; got 3"),
        ({"loss": ml.sparsemax_loss}, {}, ValueError, "what sparsemax_loss needs"),
        ({"loss": math.exp}, {}, ValueError, "what exp needs"),
        ({"loss": 3}, {}, ValueError, "what 3 needs"),
        ({"loss": partial(ml.hinge_loss, 1.0)}, {}, ValueError, "fix the parameters of hinge_loss"),
        ({"loss": ml.arcface_loss, "bias": True}, {}, ValueError, "arcface_loss knows no offsets"),
        (
            {"loss": partial(ml.gaussian_mixture_loss, variances=torch.ones(C, D))},
            {},
            ValueError,
            "identity covariance",
        ),
        (
            {"loss": partial(ml.large_margin_loss, divergence=math.exp)},
            {},
            ValueError,
            "divergence must be marginlib's disagreement or kl_from_uniform or kl_to_uniform",
        ),
        (
            {"loss": partial(ml.large_margin_loss, base=ml.sparsemax_loss)},
            {},
            ValueError,
            "base must be a loss of logits",
        ),
        ({"rate": 0}, {}, ValueError, "rate must be above 0"),
        ({"rate": 1.5}, {}, ValueError, "rate must be between 0 and 1"),
        ({"rate": "half"}, {}, TypeError, "rate must be a number"),
        ({"block": 0}, {}, ValueError, "a block of 1 class or more"),
        ({"block": 2.0}, {}, TypeError, "block must be a whole number"),
        ({"reduction": "max"}, {}, ValueError, "reduction must be one of"),
        ({"class_weight": torch.ones(C + 1)}, {}, ValueError, "expected class_weight (11,)"),
        ({}, {"target": torch.full((N,), C)}, ValueError, "expected labels from 0 to 10"),
        ({}, {"target": torch.full((N,), -1)}, ValueError, "got -1 in row 0 (32 such of 32)"),
        ({}, {"target": torch.zeros(N)}, TypeError, "target must hold class indices"),
        ({}, {"target": torch.zeros(2).long()}, ValueError, "expected features (n, d) and target"),
        ({}, {"features": torch.zeros(N, D + 1)}, ValueError, "expected features (n, d) and we"),
        ({"loss": partial(ml.large_margin_loss, strength=-1.0)}, {}, ValueError, "strength must"),
        ({"loss": partial(ml.label_smoothing_loss, smoothing=2.0)}, {}, ValueError, "between 0 an"),
        ({"loss": partial(ml.cosface_loss, scale=-1.0)}, {}, ValueError, "scale must be"),
        ({"loss": partial(ml.cosface_loss, margin=-1.0)}, {}, ValueError, "margin must be"),
        ({"loss": partial(ml.arcface_loss, margin=4.0)}, {}, ValueError, "margin must be between"),
        (
            {"loss": partial(ml.gaussian_mixture_loss, priors=torch.ones(2))},
            {},
            ValueError,
            "expected priors (11,); got (2,)",
        ),
    ],
)
def test_wrong_use_is_refused_by_all_ranks_alike(ranks, make, call, kind, words):
    answers = ranks.do(refusal, make, call)
    assert len(set(answers)) == 1
    assert answers[0][0] is kind
    assert words in answers[0][1]


def unlike_rows(mesh):
    head = sharded.ShardedHead(D, C, mesh=mesh)
    n = 2 + mesh.get_local_rank()
    try:
        head(torch.zeros(n, D), torch.zeros(n).long())
    except ValueError as error:
        return str(error)


def test_unlike_numbers_of_rows_are_refused_by_all_ranks(ranks):
    for said in ranks.do(unlike_rows):
        assert said == "every rank must bring as many rows as the others; they bring 2 to 5"


def changed(mesh):
    head = sharded.ShardedHead(D, C, ml.softmax_loss, mesh=mesh)
    head.loss = ml.sparsemax_loss
    try:
        head(torch.zeros(2, D), torch.zeros(2).long())
    except ValueError as error:
        return str(error)


def test_a_loss_that_is_set_later_is_looked_at_too(ranks):
    assert all("what sparsemax_loss needs" in said for said in ranks.do(changed))


def two_dimensions(_):
    from torch.distributed.device_mesh import init_device_mesh

    try:
        sharded.ShardedHead(D, C, mesh=init_device_mesh("cpu", (2, 2)))
    except ValueError as error:
        return str(error)


def test_a_mesh_of_two_dimensions_is_refused(ranks):
    assert all("one dimension" in said for said in ranks.do(two_dimensions))


def twice_and_forward(mesh):
    x, w, target = batch()
    head = made(mesh, ml.softmax_loss, x, w)
    x = own(mesh, x).requires_grad_()
    said = []
    try:
        torch.autograd.grad(head(x, own(mesh, target)), x, create_graph=True)
    except NotImplementedError as error:
        said.append(str(error))
    try:
        torch.func.grad(lambda x: head.losses(x, target[: len(x)]).sum())(x.detach())
    except NotImplementedError as error:
        said.append(str(error))
    return said


def test_second_derivatives_and_transforms_are_refused(ranks):
    for twice, forward in ranks.do(twice_and_forward):
        assert "cannot be differentiated twice" in twice
        assert "take a plain head" in forward


def test_without_a_process_group_the_sentence_says_how_to_get_one():
    for call in (
        lambda: sharded.ShardedHead(D, C),
        lambda: replicated.mean_over_ranks(
            ml.LinearHead(2, 3, reduction="none"), torch.ones(1, 2), torch.tensor([0])
        ),
    ):
        with pytest.raises(RuntimeError, match="start the script by torchrun"):
            call()


def test_a_mean_over_ranks_wants_the_rows_apart():
    with pytest.raises(ValueError, match="a head with reduction=\"none\"; got 'mean'"):
        replicated.mean_over_ranks(ml.LinearHead(2, 3), torch.ones(1, 2), torch.tensor([0]))


def test_a_head_with_a_shared_grouping_can_be_pickled():
    head = ml.GroupHead(4, 3, grouping=replicated.shared_grouping())
    assert pickle.loads(pickle.dumps(head)).grouping(torch.tensor([2.0, 1.0]), 2)[0].item() == 1


@pytest.mark.parametrize(
    ("world", "words", "sentence"),
    [
        (None, "", "start it by python -m torch.distributed.run"),
        ("3", "--rows 16", "16 do not part among 3"),
        ("1", "--every 0", "1 step or more between checkpoints; got 0"),
        ("1", "--loss triplet", "invalid choice: 'triplet'"),
    ],
)
def test_the_script_refuses_what_cannot_be_run(world, words, sentence, monkeypatch, capsys):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    if world:
        monkeypatch.setenv("WORLD_SIZE", world)
    with pytest.raises(SystemExit, match="2"):
        launch.main(words.split())
    assert sentence in capsys.readouterr().err
