"""Every method side by side: one small network, the same trials, five seeds, four regimes.

:mod:`trials` chose each method's parameter and learning rate on validation images, with six
trials each.  Here the choice is trained again with seeds 0 to 4, and the test images are looked
at for the first time.

Hypotheses, written down after the trials were planned and before any run of this study.  Each
is about the paired difference of two methods with the same seed, on the test images.  It *holds*
in a regime where the 95 % interval lies on the side that is named, is *refuted* where it lies
on the other, and is *undecided* where it holds zero.

1. Nothing beats a tuned softmax loss with label smoothing everywhere: no method makes fewer
   mistakes in all four regimes.  Refuted by one that does.
2. Few images.  The margins of the sources (soft margin, large margin, L-Softmax, LGM,
   EM-Softmax, both kinds of groups) make fewer mistakes than the softmax loss.
3. Wrong labels.  The hinge and the large margin make fewer mistakes than the softmax loss.
4. Many classes.  On pairs of drawings of sixty characters never seen, the cosine methods
   (NormFace, CosFace, ArcFace) accept more true pairs at one false pair in a hundred than the
   softmax loss does.
5. Attack.  LGM makes fewer mistakes than the softmax loss on images moved by 0.1 against it.
6. Calibration.  Once its logits are divided by one fitted temperature, no method has a lower
   likelihood loss than the softmax loss in all four regimes.  Refuted by one that has.

The attack is one step on every pixel, on the scale from 0 to 1, along the sign of the slope of
LSE(rivals) - f_y.  The softmax loss has the same signs where it is not flat; this one is flat
nowhere, so that large logits hide nothing.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ...rivals import split
from ...softmax import softmax_loss
from .. import data, measures
from ..evidence import Difference, Record, Run, interval, sorted_values
from ..train import Model
from . import Method, Setting, run_named
from .gaussian_mixture import attack
from .trials import (
    BASES,
    FAMILIES,
    POCKET,
    briefly,
    chosen,
    family_of,
    plain_name,
    schedule_of,
)
from .trials import METHODS as TRIED
from .trials import SCALES as TRIALS

SEEDS = (0, 1, 2, 3, 4)
EPSILONS = (0.05, 0.1)
ATTACKED = 2000  # test images, the first ones
SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)
FALSE_ACCEPTS = 0.01

METHODS: dict[str, Method] = TRIED


def winners(scale: str) -> dict[str, Setting]:
    """The regimes of a scale at the rates that won, each with the candidates that won there."""
    taken: dict[str, list[str]] = {}
    for method, regime in chosen(scale).values():
        taken.setdefault(regime, []).append(method)
    return {
        regime: replace(TRIALS[scale][regime], methods=tuple(methods), seeds=SEEDS)
        for regime, methods in taken.items()
    }


SCALES = {"pocket": {"clean": POCKET}, **{scale: winners(scale) for scale in BASES}}


def gathered(record: Record) -> Record:
    """The runs under the methods' own names and the plain regimes, to be compared.

    The candidate that a run trained is kept as ``candidate``.
    """
    runs = []
    for run in record.runs:
        method, regime = run.config["method"], run.config["regime"]
        plain = {"method": family_of(method), "regime": plain_name(regime), "candidate": method}
        runs.append(replace(run, config=run.config | plain))
    return Record(record.stem, tuple(runs))


# --- Reading the record -------------------------------------------------------------------------


def versus(
    record: Record, baseline: str, measure: str = "error", share: float = 0.95
) -> dict[str, dict[str, Difference]]:
    """Paired differences to one method: ``versus(...)[regime][method]``.

    ``record`` is :func:`gathered`.  A method that diverged in all seeds but one is left out.
    """
    found: dict[str, dict[str, Difference]] = {}
    for regime in sorted_values(run.config["regime"] for run in record.runs):
        part = record.select(regime=regime)
        lasting = [m for m in FAMILIES if len(part.select(method=m).values(measure)) > 1]
        found[regime] = {
            method: part.paired(method, baseline, measure, share=share)
            for method in lasting
            if method != baseline
        }
    return found


def mean_ranks(record: Record, measure: str = "error") -> dict[str, tuple[float, float, float]]:
    """Of each method its rank, 1 for the lowest, averaged over the regimes: mean, low, high.

    Ties share their places.  The 95 % interval is over seeds; a run that diverged is last.
    """
    by_seed: dict[str, list[float]] = {}
    regimes = sorted_values(run.config["regime"] for run in record.runs)
    for seed in sorted({run.seed for run in record.runs}):
        ranks: dict[str, list[float]] = {}
        for regime in regimes:
            runs = record.select(regime=regime, seed=seed).runs
            values = {run.config["method"]: run.test.get(measure, math.inf) for run in runs}
            for method, value in values.items():
                below = sum(other < value for other in values.values())
                equal = sum(other == value for other in values.values())
                ranks.setdefault(method, []).append(below + (equal + 1) / 2)
        for method, of_regimes in ranks.items():
            if len(of_regimes) == len(regimes):
                by_seed.setdefault(method, []).append(sum(of_regimes) / len(regimes))
    return {method: interval(values) for method, values in by_seed.items() if len(values) > 1}


# --- What is measured once, on the test images --------------------------------------------------


def scaled(logits: Tensor, target: Tensor) -> dict[str, float]:
    """Likelihood loss and calibration after the logits are divided by one temperature.

    The temperature that suits one half of the images is used on the other half, and the other
    way round.
    """
    from scipy.optimize import minimize_scalar

    halves, logits = (slice(0, None, 2), slice(1, None, 2)), logits.double()
    parts, targets = [], []
    for fitted, told in (halves, halves[::-1]):

        def loss(log_temperature: float, part: slice = fitted) -> float:
            return softmax_loss(logits[part] / 2.0**log_temperature, target[part]).mean().item()

        best = minimize_scalar(loss, bounds=(-8, 8), method="bounded").x
        parts.append(logits[told] / 2.0**best)
        targets.append(target[told])
    parts, targets = torch.cat(parts), torch.cat(targets)
    return {
        "nll_scaled": softmax_loss(parts, targets).mean().item(),
        "ece_scaled": measures.calibration_error(parts, targets),
    }


def relative_margins(logits: Tensor, target: Tensor) -> list[float]:
    """Quantiles of the margin, in standard deviations of the example's own logits.

    Without this unit a head that multiplies its logits would seem to have the larger margin.
    """
    f_y, rivals = split(logits.double(), target)
    margins = (f_y - rivals.amax(1)) / logits.double().std(1).clamp_min(1e-12)
    shares = torch.tensor(SHARES, dtype=margins.dtype, device=margins.device)
    return margins.quantile(shares).tolist()


def uphill(model: Model, images: Tensor, labels: Tensor) -> Tensor:
    """The sign of the slope of LSE(rivals) - f_y in every pixel."""
    signs = []
    for part, of in zip(images.split(500), labels.split(500), strict=True):
        x = part.float().requires_grad_()
        f_y, rivals = split(model.head.logits(model.features(x)), of)
        signs.append(torch.autograd.grad((rivals.logsumexp(1) - f_y).sum(), x)[0].sign())
    return torch.cat(signs)


def attacked(model: Model, images: Tensor, labels: Tensor) -> dict[str, float]:
    """Error on images moved by each epsilon, in per cent."""
    images, labels = images[:ATTACKED], labels[:ATTACKED]
    model.net.eval()
    signs = uphill(model, images, labels)
    found = {}
    for epsilon in EPSILONS:
        logits, _, _ = model.outputs(attack(images, signs, epsilon), labels)
        found[f"error_{epsilon}"] = measures.error(logits, labels)
    return found


def accepted(similarity: Tensor, same: Tensor, false_accepts: float = FALSE_ACCEPTS) -> float:
    """Share of the true pairs that pass where that share of the false pairs does, in per cent.

    >>> accepted(torch.tensor([3.0, 1.0, 4.0, 2.0]), torch.tensor([True, True, False, False]), 0.5)
    50.0
    """
    threshold = similarity[~same].sort(descending=True).values[int(false_accepts * (~same).sum())]
    return 100 * (similarity[same] > threshold).double().mean().item()


def verified(model: Model, name: str, classes: int, seed: int) -> dict[str, float]:
    """How well features tell whether two images are of one class, for classes never seen."""
    whole = data.load(name)
    seen = set(whole.only(classes, seed).label_names)
    unseen = torch.tensor([label not in seen for label in whole.label_names])
    labels = torch.cat([whole.train_labels, whole.test_labels])
    images = torch.cat([whole.train_images, whole.test_images])[unseen[labels]]
    device = model.pixels[0].device
    labels = labels[unseen[labels]].to(device)
    _, _, features = model.outputs(images.to(device), labels.clamp_max(0))
    i, j = torch.triu_indices(len(labels), len(labels), 1, device=device)
    same, unit = labels[i] == labels[j], normalize(features)
    return {
        "accepted_cosine": accepted((unit @ unit.T)[i, j], same),
        "accepted_distance": accepted(-torch.cdist(features, features)[i, j], same),
    }


@torch.no_grad()
def examine(
    model: Model, images: Tensor, labels: Tensor, setting: Setting, seed: int
) -> Mapping[str, Any]:
    """All of the above."""
    logits, _, _ = model.outputs(images, labels)
    found: dict[str, Any] = {"relative_margins": relative_margins(logits, labels)}
    found |= scaled(logits, labels)
    with torch.enable_grad():
        found |= attacked(model, images, labels)
    if setting.classes:
        found |= verified(model, setting.data, setting.classes, seed)
    return found


def study(method: str, seed: int, scale: str = "pocket", regime: str = "clean", **options) -> Run:
    """Train once: ``METHODS[method]`` under ``SCALES[scale][regime]``, with this seed."""
    setting = SCALES[scale].get(regime)
    look = partial(examine, setting=setting, seed=seed) if setting else None
    options = {"examine": look, "before_step": schedule_of(method), **options}
    return briefly(run_named(METHODS, SCALES, method, seed, scale, regime, **options))
