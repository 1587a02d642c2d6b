"""Losses that are wrong on purpose, each with the law that must say so.

Every one is a slip that somebody has made.  Where it can be, a loss is wrong in one thing only:
it then stands on the library's own parts, so that no other law is broken along the way.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from marginlib import disagreement, large_margin_loss, softmax_loss, split
from marginlib.rivals import log_odds, softplus

SHAPE = "one number per example"
UNTOUCHED = "untouched inputs"
REPEATABLE = "repeatable answer"
INDEPENDENT = "independent examples"
SHIFT = "shift invariance"
RELABELLING = "relabelling invariance"
PREFERENCE = "preference for the target"
PULL = "pull on a lost target"
UNIT = "unit pull"
VANISHING = "vanishing loss"
GRADIENT = "true gradient"
EXTREMES = "finite extremes"
REFERENCE = "agreement with the reference"
FLOAT_TYPE = "float type of the logits"
HALF = "half precision"
DIGITS = "digits far from zero"
EMPTY = "empty batch"
LABELS = "refusal of labels out of range"
KINDS = "refusal of wrong kinds"
SHAPES = "refusal of wrong shapes"
ONE_CLASS = "refusal of a single class"
TRANSFORMS = "function transforms"
COMPILATION = "whole graph compilation"


@dataclass(frozen=True)
class Wrong:
    """A wrong loss, the law that must name its fault, and what else that fault may break."""

    loss: Callable[[Tensor, Tensor], Tensor]
    law: str
    also: frozenset[str]
    declared: dict = field(default_factory=dict)


WRONG: list[Wrong] = []


def wrong(law: str, *also: str, **declared):
    """Enter a wrong loss in the list; ``declared`` goes to check as it is."""

    def enter(loss):
        WRONG.append(Wrong(loss, law, frozenset(also), declared))
        return loss

    return enter


@wrong(PREFERENCE, PULL, UNIT)
def flipped_sign(logits, target):
    return -softmax_loss(logits, target)


@wrong(REFERENCE, reference=large_margin_loss)
def factor_of_one_half_forgotten(logits, target):
    _, rivals = split(logits, target)
    return softmax_loss(logits, target) + 0.3 * 2 * disagreement(rivals)


@wrong(UNIT)
def factor_of_two(logits, target):
    return 2 * softmax_loss(logits, target)


@wrong(VANISHING, UNIT)
def target_among_the_rivals_that_should_agree(logits, target):
    return softmax_loss(logits, target) + 0.3 * disagreement(logits)


@wrong(VANISHING)
def target_among_the_rivals_of_a_hinge(logits, target):
    f_y, _ = split(logits, target)
    return (logits - f_y[:, None] + 1).relu().amax(dim=1).to(f_y.dtype)


@wrong(SHAPE)
def mean_over_the_examples_instead_of_the_rivals(logits, target):
    f_y, rivals = split(logits, target)
    return (rivals - f_y[:, None] + 1).relu().mean(dim=0)


@wrong(SHAPE)
def scalar_instead_of_one_number_per_example(logits, target):
    return softmax_loss(logits, target).mean()


@wrong(SHAPE)
def column_instead_of_a_row(logits, target):
    return softmax_loss(logits, target)[:, None]


@wrong(SHAPE)
def exactly_ten_classes(logits, target):
    return -(one_hot(target, 10) * logits.log_softmax(dim=1)).sum(dim=1)


@wrong(SHAPE)
def the_mistakes_counted(logits, target):
    return (logits.argmax(dim=1) != target).long()


@wrong(SHAPE)
def crash(logits, target):
    return logits @ target


@wrong(SHIFT, DIGITS, vanishes=False, unit=False)
def smoothing_shared_among_ten_classes(logits, target):
    f_y, rivals = split(logits, target)
    return softmax_loss(logits, target) + 0.1 * (9 * f_y - rivals.sum(dim=1)) / 10


@wrong(INDEPENDENT)
def divided_by_the_size_of_the_batch(logits, target):
    return softmax_loss(logits, target) / len(target)


@wrong(INDEPENDENT, PREFERENCE, PULL, UNIT)
def softmax_down_the_batch(logits, target):
    f_y, _ = split(logits.log_softmax(dim=0), target)
    return -f_y


@wrong(INDEPENDENT, PREFERENCE, PULL, VANISHING, DIGITS, UNIT)
def logits_normalised_over_the_batch(logits, target):
    return softmax_loss(logits - logits.mean(dim=0), target)


@wrong(PREFERENCE, RELABELLING, PULL, VANISHING, UNIT)
def classes_counted_from_one(logits, target):
    return softmax_loss(logits.roll(1, dims=1), target)


@wrong(PREFERENCE, PULL, UNIT)
def strongest_class_instead_of_the_target(logits, target):
    split(logits, target)
    return softmax_loss(logits, logits.argmax(dim=1))


@wrong(RELABELLING, PREFERENCE, UNIT)
def class_zero_counted_twice(logits, target):
    return softmax_loss(logits, target) * (1 + (target == 0).to(torch.int8))


@wrong(UNTOUCHED)
def maximum_taken_away_in_place(logits, target):
    logits -= logits.amax(dim=1, keepdim=True)
    return softmax_loss(logits, target)


@wrong(UNTOUCHED)
def labels_shifted_in_place(logits, target):
    target -= target
    return softmax_loss(logits, target)


@wrong(REPEATABLE)
def noise(logits, target):
    losses = softmax_loss(logits, target)
    return losses + 1e-3 * torch.rand_like(losses)


@wrong(GRADIENT, PULL, UNIT)
def target_detached(logits, target):
    f_y, rivals = split(logits, target)
    return softplus(log_odds(f_y.detach(), rivals))


class Careless(torch.autograd.Function):
    """log(1 + e^gap), with a backward that forgets what comes down to it."""

    generate_vmap_rule = True

    @staticmethod
    def forward(gap):
        return gap.exp().log1p()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad_output):
        (gap,) = ctx.saved_tensors
        return gap.sigmoid()


@wrong(GRADIENT)
def backward_that_forgets_its_input(logits, target):
    f_y, rivals = split(logits, target)
    gap = (rivals - f_y[:, None]).logsumexp(dim=1)
    return torch.where(gap > 30, gap, Careless.apply(gap.clamp(max=30)))


@wrong(GRADIENT, EXTREMES, HALF, TRANSFORMS)
def gradient_lost_where_rivals_tie(logits, target):
    _, rivals = split(logits, target)
    return softmax_loss(logits, target) + 0.1 * rivals.var(dim=1, correction=0).sqrt()


@wrong(EXTREMES, HALF, DIGITS)
def exponentials_of_bare_logits(logits, target):
    f_y, _ = split(logits, target)
    return logits.to(f_y.dtype).exp().sum(dim=1).log() - f_y


@wrong(EXTREMES, HALF, EMPTY)
def one_maximum_for_the_whole_batch(logits, target):
    f_y, _ = split(logits, target)
    top = logits.max()
    return (logits - top).to(f_y.dtype).exp().sum(dim=1).log() - (f_y - top)


@wrong(PULL, UNIT)
def small_number_inside_the_logarithm(logits, target):
    return -((-softmax_loss(logits, target)).exp() + 1e-8).log()


@wrong(PULL, UNIT)
def probability_kept_above_a_floor(logits, target):
    return -(-softmax_loss(logits, target)).exp().clamp_min(1e-12).log()


@wrong(VANISHING)
def never_satisfied(logits, target):
    return softmax_loss(logits, target) + 1


@wrong(SHIFT, VANISHING, DIGITS)
def one_logistic_loss_per_class(logits, target):
    f_y, rivals = split(logits, target)
    softplus = torch.nn.functional.softplus
    return softplus(-f_y) + softplus(rivals).sum(dim=1)


@wrong(FLOAT_TYPE, HALF)
def always_double(logits, target):
    return softmax_loss(logits, target).double()


@wrong(FLOAT_TYPE)
def always_single(logits, target):
    return softmax_loss(logits, target).float()


@wrong(DIGITS)
def logsumexp_minus_the_target(logits, target):
    f_y, _ = split(logits, target)
    return logits.to(f_y.dtype).logsumexp(dim=1) - f_y


@wrong(HALF, UNIT)
def sum_kept_in_half_precision(logits, target):
    split(logits, target)
    f_y = logits.gather(1, target[:, None])
    return (logits - f_y + 1).relu().sum(dim=1) - 1


@wrong(TRANSFORMS)
def sum_begun_outside(logits, target):
    losses = softmax_loss(logits, target)
    total = torch.zeros(target.shape, dtype=losses.dtype)
    total += losses
    return total


@wrong(EMPTY)
def one_example_after_another(logits, target):
    split(logits, target)
    losses = [softmax_loss(z[None], y[None]) for z, y in zip(logits, target, strict=True)]
    return torch.cat(losses)


@wrong(LABELS, KINDS)
def labels_clamped_from_above(logits, target):
    return softmax_loss(logits, target.clamp(max=logits.shape[1] - 1))


@wrong(LABELS, KINDS)
def labels_counted_from_the_end(logits, target):
    c = logits.shape[1]
    return softmax_loss(logits, torch.where(target < 0, target + c, target))


@wrong(KINDS)
def one_hot_rows_taken_silently(logits, target):
    if target.shape == logits.shape:
        target = target.argmax(dim=1)
    return softmax_loss(logits, target)


@wrong(KINDS)
def labels_rounded(logits, target):
    return softmax_loss(logits, target.long())


@wrong(SHAPES)
def labels_broadcast(logits, target):
    return softmax_loss(logits, target.flatten().expand(logits.shape[:1]))


@wrong(ONE_CLASS)
def one_class_is_enough(logits, target):
    if logits.shape[1:] == (1,):
        return logits.new_zeros(len(target))
    return softmax_loss(logits, target)


@wrong(COMPILATION, TRANSFORMS)
def a_look_at_the_numbers(logits, target):
    losses = softmax_loss(logits, target)
    return losses.clamp_min(0) if (losses < 0).any() else losses
