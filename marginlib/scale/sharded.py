"""A slice of the classes on every rank (chapter 13).

Ten million class vectors do not fit on one device, and averaging their gradients between copies
would move more bytes than the network makes.  So part the classes.  Every rank holds a slice of
the weight, sees the features of all ranks, and keeps a few sums of each row; a rank is then one
more block of ``marginlib.scale.chunked``:

    top         = max_r top_r
    S           = sum_r S_r e^(top_r - top)
    LSE(rivals) = top + log S

What depends on the target's class vector, its logit and its margin, is computed by the rank that
holds it.  A step moves the features once there and their gradient once back, and a few numbers
for each example: how many classes there are does not matter (``book/devices``).

The weight is a DTensor, and the collectives are those of its redistribution: this module only
says what is partial and what is replicated.  torch's ``loss_parallel`` serves the softmax loss
alone, knows no margin, and holds the slice's logits.

Derived   chapters/13_at_scale.ipynb
Source    X. An et al., "Partial FC: Training 10 Million Identities on a Single Machine", ICCV
          workshops 2021, and "Killing Two Birds with One Stone: Efficient and Robust Training of
          Face Recognition CNNs by Partial FC", CVPR 2022; torch's notes on ``loss_parallel``.
"""

import math
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from inspect import signature
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

if not torch.distributed.is_available():
    raise ImportError("marginlib.scale.sharded needs a torch that is built with torch.distributed")

import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

try:
    from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
    from torch.distributed.tensor.debug import CommDebugMode
except ImportError:  # torch 2.4, where they were not yet public
    from torch.distributed._tensor import DTensor, Replicate, Shard
    from torch.distributed._tensor.debug import CommDebugMode
    from torch.distributed._tensor.placement_types import Partial

from ..angular import (
    a_softmax_loss,
    a_softmax_margin,
    arcface_loss,
    arcface_margin,
    cosface_loss,
    l_softmax_loss,
    l_softmax_margin,
    normface_loss,
)
from ..gaussian_mixture import gaussian_margin, gaussian_mixture_loss
from ..heads import Head
from ..hinge import hard_bias_loss, hinge_loss
from ..large_margin import label_smoothing_loss, large_margin_loss
from ..rivals import (
    check_features,
    check_number,
    plain_form_serves,
    target_rows,
    widen,
    without_autocast,
)
from ..soft_margin import soft_margin_loss
from ..softmax import softmax_loss
from .chunked import (
    _COSINES,
    _DISTANCES,
    _DIVERGENCES,
    _PRODUCTS,
    BLOCK,
    Features,
    Labels,
    PerExample,
    _block_logits,
    _blocks,
    _check_offsets,
    _Form,
    _turned,
    _vectors,
)

# Classes whose start is drawn together: a slice that begins among them draws them all.
DRAWN = 4096


# --- The head ------------------------------------------------------------------------------


class ShardedHead(Head):
    """A classifier whose classes are parted among the ranks, under a loss of this book.

    The slices are those of ``Shard(0)``: ``ceil(c / ranks)`` classes each, and the last ranks may
    have fewer.  ``weight`` (c, d) and ``bias`` (c,) are DTensors under the names they have in
    :class:`torch.nn.Linear`, so that ``torch.distributed.checkpoint`` loads them on another
    number of ranks and into a plain head.  Their first values do not depend on the number of
    ranks, only on the seed of the first.

    Every rank calls ``head(features, target)`` with as many rows as the others and gets the same
    number back, the loss of all rows; ``backward()`` is called on every rank.

    The gradients are those of that loss, with one exception.  If the rows are the ranks' own, the
    gradient that goes on into the network is multiplied by the number of ranks:
    ``DistributedDataParallel`` and FSDP divide by it, as they take a rank's loss for the mean of
    its own rows.  The head stays outside of them.

    Args:
        in_features: d, the length of a feature vector.
        num_classes: c, at least 2 and at least the number of ranks.
        loss: one of ``softmax_loss``, ``soft_margin_loss``, ``large_margin_loss``,
            ``label_smoothing_loss``, ``hinge_loss``, ``hard_bias_loss``, ``l_softmax_loss``,
            ``a_softmax_loss``, ``normface_loss``, ``cosface_loss``, ``arcface_loss`` and
            ``gaussian_mixture_loss`` without variances, with parameters fixed by
            :func:`functools.partial`, by name.  A schedule may set ``head.loss`` between steps.
        bias: whether the classifier has offsets; for the first six losses.
        penalty: a function of features (n, d), class vectors (c, d) and target (n,) that reads no
            class vector but the target's and returns one number per example, which is added; such
            as ``lambda x, means, y: 0.1 * gaussian_nll(x, means, y)``.
        rate: the share of each slice's classes that a training step looks at, Partial FC's
            r.  The classes of the batch are always among them, the others are drawn; at least
            as many are kept as the batch has rows.  The loss is then that of these classes alone.
            After ``head.eval()`` all count.
        own_rows: whether each rank brings rows of its own, as a data-parallel network does.
            If not, all ranks must bring the same.
        mesh: a :class:`~torch.distributed.device_mesh.DeviceMesh` of one dimension; None takes all
            ranks.
        block: how many classes are looked at together, as in ``marginlib.scale.chunked``.

    The options ``reduction``, ``class_weight`` and ``ignore_index`` are those of ``Head``
    and speak of the rows of all ranks: the mean divides by their summed weight, ``"none"``
    returns a number for each.

    Raises:
        RuntimeError: without a process group.
        ValueError: as ``Head``; for more ranks than classes, a mesh of two dimensions, a loss
            that cannot be put together from slices, a rate outside (0, 1]; when called, on the
            CPU, if the ranks bring unlike numbers of rows (elsewhere torch stops, or waits for
            its timeout) or if a label lies outside 0..c-1 (elsewhere that row's loss is NaN).
        TypeError: as ``Head``; for a ``block`` that is no whole number.
        NotImplementedError: for second derivatives, forward mode and ``torch.func``.

    With one rank it is the plain head, as here; started by ``torchrun``, the first line reads
    ``torch.distributed.init_process_group()``.

    >>> from marginlib import arcface_loss
    >>> store = torch.distributed.HashStore()
    >>> torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    >>> head = ShardedHead(128, 20_000, arcface_loss, rate=0.1)
    >>> features = torch.randn(4, 128, requires_grad=True)
    >>> head(features, torch.tensor([0, 7, 19_999, 7])).backward()
    >>> features.grad.shape, head.weight.to_local().shape
    (torch.Size([4, 128]), torch.Size([20000, 128]))
    >>> torch.distributed.destroy_process_group()
    """

    told = ("loss", "rate")

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        loss: Callable[..., PerExample] = softmax_loss,
        *,
        bias: bool = False,
        penalty: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
        rate: float = 1.0,
        own_rows: bool = True,
        mesh: DeviceMesh | None = None,
        block: int = BLOCK,
        **options: Any,
    ):
        if not dist.is_initialized():
            raise RuntimeError(
                "a sharded head needs a process group: start the script by torchrun and call "
                "torch.distributed.init_process_group() before the head is made"
            )
        if mesh is None:
            gpu = torch.cuda.is_available() and dist.get_backend() != "gloo"
            kind = "cuda" if gpu else "cpu"
            mesh = init_device_mesh(kind, (dist.get_world_size(),))
        if mesh.ndim != 1:
            raise ValueError(
                f"expected a mesh of one dimension, such as mesh['class']; got {mesh.ndim}"
            )
        if num_classes < mesh.size():
            raise ValueError(
                f"expected a class or more for each of {mesh.size()} ranks; got {num_classes}"
            )
        check_number("rate", rate, most=1.0)
        if rate == 0:
            raise ValueError("rate must be above 0: a target needs rivals")
        if not isinstance(block, int):
            raise TypeError(f"block must be a whole number of classes; got {type(block).__name__}")
        if block < 1:
            raise ValueError(f"expected a block of 1 class or more; got {block}")
        self.mesh = mesh
        size = math.ceil(num_classes / mesh.size())
        edges = [min(rank * size, num_classes) for rank in range(mesh.size() + 1)]
        self.sizes = [stop - start for start, stop in pairwise(edges)]
        self.first = edges[mesh.get_local_rank()]
        self.loss, self.penalty, self.rate = loss, penalty, rate
        self.own_rows, self.block = own_rows, block
        super().__init__(in_features, num_classes, **options)
        if bias:
            self.bias = self._slice_of(num_classes)
            self.reset_parameters()
        _check_loss(loss, bias)

    def add_parameters(self) -> None:
        """Make room for this rank's class vectors."""
        self.weight = self._slice_of(self.num_classes, self.in_features)

    def _slice_of(self, *shape: int) -> nn.Parameter:
        held = self.sizes[self.mesh.get_local_rank()]
        local = torch.empty(held, *shape[1:], device=_device(self.mesh))
        whole = torch.empty(shape, device="meta")
        sharded = DTensor.from_local(
            local, self.mesh, [Shard(0)], run_check=False, shape=whole.shape, stride=whole.stride()
        )
        return nn.Parameter(sharded)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw all parameters as :class:`torch.nn.Linear` does."""
        bound = 1 / math.sqrt(self.in_features)
        for parameter in self.parameters():
            local = parameter.to_local()
            # One seed for all ranks, but no two classes that start alike.
            seed = torch.randint(2**62, (), device="cpu").to(local.device)
            dist.broadcast(seed, int(self.mesh.mesh.flatten()[0]), self.mesh.get_group())
            draw, stop = torch.Generator(local.device), self.first + len(local)
            for start in range(self.first // DRAWN * DRAWN, stop, DRAWN):
                draw.manual_seed(seed.item() + start)
                rows = local.new_empty(DRAWN, *local.shape[1:])
                rows.uniform_(-bound, bound, generator=draw)
                low, high = max(start, self.first), min(start + DRAWN, stop)
                local[low - self.first : high - self.first] = rows[low - start : high - start]

    def logits(self, features: Features) -> Float[Tensor, "n c"]:
        """The logits of this rank's rows for all classes, without margin, for evaluation.

        Every rank must call it.  The result is as large as a plain head's.
        """
        whole = features.new_empty(1).expand(self.num_classes, self.in_features)
        check_features(features, whole, torch.zeros(len(features), dtype=torch.long))
        x = widen(_all_rows(features, self.mesh, self.own_rows))
        part = self._part(x, torch.full((len(x),), -1, device=x.device), 1.0)
        form, seen, offset, origin = part.sight(*_parts(self.loss))
        with without_autocast(x):
            z = _block_logits(form, slice(None), seen, part.weight, offset, origin)
        if form is _DISTANCES:
            z = z - 0.5 * seen.square().sum(1, keepdim=True)
        shape = torch.Size((len(x), self.num_classes))
        sharded = DTensor.from_local(
            z, self.mesh, [Shard(1)], run_check=False, shape=shape, stride=(shape[1], 1)
        )
        rows = Shard(0) if self.own_rows else Replicate()
        return sharded.redistribute(placements=[rows]).to_local()

    # In a graph the compiler would keep each block's logits, as in chunked.
    @torch.compiler.disable
    def forward(self, features: Features, target: Labels) -> Float[Tensor, "..."]:
        """Return the training loss of the rows of all ranks, reduced."""
        whole = features.new_empty(1).expand(self.num_classes, self.in_features)
        check_features(features, whole, target)
        if self.own_rows:
            _check_rows(len(features), features.device, self.mesh)
        if self.own_rows and features.requires_grad:
            features = features.view_as(features)  # a hook on the view dies with it
            features.register_hook(lambda slope: slope * self.mesh.size())
        rows = (_all_rows(t, self.mesh, self.own_rows) for t in (features, target.long()))
        return super().forward(*rows)

    def losses(self, features: Features, target: Labels) -> PerExample:
        """Return one loss for each row; all ranks must bring the same rows."""
        _check_loss(self.loss, self.bias is not None)
        if plain_form_serves():
            raise NotImplementedError(
                "a sharded head has first derivatives by backward() alone; under torch.func, "
                "forward mode and torch.compile take a plain head"
            )
        c = self.num_classes
        outside = (target < 0) | (target >= c)
        if target.device.type == "cpu" and outside.any():
            row, such = int(outside.nonzero()[0]), int(outside.sum())
            raise ValueError(
                f"expected labels from 0 to {c - 1}, as there are {c} classes; "
                f"got {target[row].item()} in row {row} ({such} such of {len(target)})"
            )
        _check_offsets("priors", _parts(self.loss)[1].get("priors"), self.weight, positive=True)
        x = widen(features)
        part = self._part(x, target, self.rate if self.training else 1.0)
        with without_autocast(x):
            losses = part.losses(self.loss, self.penalty)
        return torch.where(outside, math.nan, losses)

    def _part(self, x: Tensor, target: Tensor, rate: float) -> "_Part":
        weight = self.weight.to_local()
        bias = None if self.bias is None else self.bias.to_local()
        y = target - self.first
        y = torch.where((y >= 0) & (y < len(weight)), y, -1)
        kept = [min(size, max(math.ceil(rate * size), len(x))) for size in self.sizes]
        held, index = len(weight), None
        if kept != self.sizes:
            index = _sample(y, held, kept[self.mesh.get_local_rank()])
            y = torch.where(y >= 0, torch.searchsorted(index, y), -1)
            weight = weight.index_select(0, index)
            bias = None if bias is None else bias.index_select(0, index)
        slice_ = slice(self.first, self.first + held)
        return _Part(self.mesh, self.block, x, weight, bias, y, sum(kept), index, slice_)


def _device(mesh: DeviceMesh) -> torch.device:
    kind = mesh.device_type
    return torch.device(kind, torch.cuda.current_device()) if kind == "cuda" else torch.device(kind)


# --- What the ranks tell each other --------------------------------------------------------


def _all_rows(t: Tensor, mesh: DeviceMesh, own: bool) -> Tensor:
    """The rows of all ranks; the gradients by them are added over the ranks on the way back."""
    rows = Shard(0) if own else Replicate()
    whole = DTensor.from_local(t, mesh, [rows], run_check=False).redistribute(
        placements=[Replicate()]
    )
    return whole.to_local(grad_placements=[Partial()])


def _check_rows(n: int, device: torch.device, mesh: DeviceMesh) -> None:
    """Raise if the ranks bring unlike numbers of rows; on the CPU, as it waits for an answer."""
    if device.type == "cpu":
        most, least = _over_ranks(torch.tensor([n, -n]), mesh, "max").tolist()
        if most != -least:
            raise ValueError(
                f"every rank must bring as many rows as the others; they bring {-least} to {most}"
            )


def _over_ranks(t: Tensor, mesh: DeviceMesh, how: str = "sum") -> Tensor:
    """Each rank's numbers added up, or their largest; all ranks get the same.

    What follows is done by every rank alike, so that a gradient needs no way back.
    """
    summand = DTensor.from_local(t, mesh, [Partial(how)], run_check=False)
    return summand.redistribute(placements=[Replicate()]).to_local(grad_placements=[Replicate()])


class Traffic(CommDebugMode):
    """Count the collectives in a block of code, and their bytes.

    torch's CommDebugMode tells what is a collective; this adds the size of what it works on: of
    an all-reduce the tensor, of an all-gather the result, of a reduce-scatter what goes in.  In a
    ring of R ranks each sends (R - 1) / R of that, and of an all-reduce twice as much.

    >>> with Traffic() as traffic:
    ...     total = torch.ones(3).sum()
    >>> traffic.bytes
    {}
    """

    def __init__(self):
        super().__init__()
        self.bytes: dict[str, list[int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Let the operation run, and weigh it if it was a collective."""
        before = self.get_total_counts()
        result = super().__torch_dispatch__(func, types, args, kwargs)
        if self.get_total_counts() > before:
            name = _NAMES.get(name := func._overloadpacket.__name__.strip("_"), name)
            size = max(_bytes(part) for part in (*args, result))
            self.bytes.setdefault(name, []).append(size)
        return result

    def __str__(self) -> str:
        """One line for each kind of collective, and one for all."""
        lines = [
            f"{name:24} {len(sizes):4} times {sum(sizes):14,} bytes"
            for name, sizes in sorted(self.bytes.items())
        ]
        every = [size for sizes in self.bytes.values() for size in sizes]
        return "\n".join([*lines, f"{'together':24} {len(every):4} times {sum(every):14,} bytes"])


# DistributedDataParallel calls the same collectives by torch's older names.
_NAMES = {"allreduce": "all_reduce", "allgather": "all_gather"}


def _bytes(part: Any) -> int:
    if isinstance(part, Tensor):
        return part.numel() * part.element_size()
    return sum(map(_bytes, part)) if isinstance(part, (list, tuple)) else 0


# --- What is asked of the rivals -----------------------------------------------------------


class _Seen(NamedTuple):
    """What the ranks together know of each row, measured from its strongest rival, a constant."""

    count: int  # r, how many rivals there are
    f_y: Tensor  # (n,) the target's logit
    lse: Tensor  # (n,) LSE(rivals)
    weighted: Tensor | None = None  # (n,) E_q[f], the rivals' softmax-weighted mean
    mean: Tensor | None = None  # (n,) E_u[f], their plain mean
    strongest: Tensor | None = None  # (n,) 0, with the gradient of f*


def _duel(f_y: Tensor, rival: Tensor) -> tuple[Tensor, Tensor]:
    """Two classes, the target and one rival who is worth all."""
    logits = torch.stack([f_y, rival], dim=1)
    return logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device)


def _of_crowd(loss: Callable, seen: _Seen) -> Tensor:
    return loss(*_duel(seen.f_y, seen.lse))


def _of_strongest(loss: Callable, seen: _Seen) -> Tensor:
    return loss(*_duel(seen.f_y, seen.strongest))


def _large_margin(loss: Callable, seen: _Seen) -> Tensor:
    _, given = _parts(loss)
    check_number("strength", given["strength"])
    price = given["strength"] * _DIVERGENCES[given["divergence"]](seen)
    base, _ = _parts(given["base"])
    return _LOSSES_OF_LOGITS[base].value(given["base"], seen) + price


def _label_smoothing(loss: Callable, seen: _Seen) -> Tensor:
    smoothing = _parts(loss)[1]["smoothing"]
    check_number("smoothing", smoothing, most=1.0)
    price = smoothing * seen.count / (seen.count + 1)
    return softmax_loss(*_duel(seen.f_y, seen.lse)) + price * (seen.f_y - seen.mean)


class _Loss(NamedTuple):
    """How a loss comes from what was seen, and what has to be seen for it beside the crowd."""

    value: Callable[[Callable, _Seen], Tensor]
    asks: frozenset[str] = frozenset()


_MEANS, _STRONGEST = frozenset({"means"}), frozenset({"strongest"})
_LOSSES_OF_LOGITS = {
    softmax_loss: _Loss(_of_crowd),
    soft_margin_loss: _Loss(_of_crowd),
    hinge_loss: _Loss(_of_strongest, _STRONGEST),
    hard_bias_loss: _Loss(_of_strongest, _STRONGEST),
    large_margin_loss: _Loss(_large_margin, _MEANS),
    label_smoothing_loss: _Loss(_label_smoothing, _MEANS),
}
# Of angles and distances: the function of features, weight and target that gives the margin.
_MARGINS: dict[Callable, Callable | None] = {
    l_softmax_loss: l_softmax_margin,
    a_softmax_loss: a_softmax_margin,
    normface_loss: None,
    cosface_loss: None,
    arcface_loss: arcface_margin,
    gaussian_mixture_loss: gaussian_margin,
}


def _parts(loss: Callable) -> tuple[Callable, dict[str, Any]]:
    """The function behind a partial, and all its parameters."""
    given = {}
    with suppress(TypeError, ValueError):  # not every callable has a signature
        named = signature(loss).parameters.items()
        given = {name: p.default for name, p in named if p.default is not p.empty}
    return getattr(loss, "func", loss), given


def _check_loss(loss: Callable, bias: bool) -> None:
    function, given = _parts(loss)
    known = {**_LOSSES_OF_LOGITS, **_MARGINS}
    if function not in known:
        names = ", ".join(sorted(one.__name__ for one in known))
        said = getattr(function, "__name__", None) or repr(function)
        raise ValueError(
            f"no slice of the classes can tell what {said} needs; a sharded head's loss is one of "
            f"marginlib's {names}, or a functools.partial of one"
        )
    if getattr(loss, "args", ()):
        raise ValueError(f"fix the parameters of {function.__name__} by name")
    if bias and function in _MARGINS:
        raise ValueError(f"{function.__name__} knows no offsets: expected bias False")
    if given.get("variances") is not None:
        raise ValueError("a sharded mixture has the identity covariance: expected variances None")
    if function is large_margin_loss:
        if given["divergence"] not in _DIVERGENCES:
            names = " or ".join(sorted(one.__name__ for one in _DIVERGENCES))
            raise ValueError(f"divergence must be marginlib's {names}; got {given['divergence']!r}")
        if _parts(given["base"])[0] not in _LOSSES_OF_LOGITS:
            raise ValueError(f"base must be a loss of logits named there; got {given['base']!r}")


def _asks(loss: Callable) -> frozenset[str]:
    function, given = _parts(loss)
    if function in _MARGINS:
        return frozenset()
    asks = _LOSSES_OF_LOGITS[function].asks
    return asks | _asks(given["base"]) if function is large_margin_loss else asks


class _Part(NamedTuple):
    """All rows, and what this rank holds of the classes."""

    mesh: DeviceMesh
    block: int
    x: Tensor  # (n, d) wide
    weight: Tensor  # (k, d) this rank's class vectors, those of the sample
    bias: Tensor | None  # (k,)
    y: Tensor  # (n,) the target's place among them, -1 if another rank has it
    count: int  # how many classes the ranks hold together, those of the sample
    index: Tensor | None  # (k,) the sample's places in this rank's slice; None: all
    slice_: slice  # where that slice lies among all classes

    def sight(
        self, function: Callable, given: dict[str, Any]
    ) -> tuple[_Form, Tensor, Tensor | None, Tensor | None]:
        """The form of the logits, the features it takes, offsets, and the origin."""
        if function in (normface_loss, cosface_loss, arcface_loss):
            check_number("scale", given["scale"])
            return _COSINES, given["scale"] * _turned(self.x), None, None
        if function is a_softmax_loss:
            return _COSINES, self.x, None, None
        if function is gaussian_mixture_loss:
            # As in the plain loss: far from the origin the squares would drown the distances.
            total = widen(self.weight.detach()).sum(dim=0, dtype=self.x.dtype)
            origin = _over_ranks(total, self.mesh) / self.count
            return _DISTANCES, self.x - origin, self._log_priors(given["priors"]), origin
        return _PRODUCTS, self.x, self.bias, None

    def _log_priors(self, priors: Tensor | None) -> Tensor | None:
        if priors is None:
            return None
        own = priors[self.slice_]
        return widen(own if self.index is None else own.index_select(0, self.index)).log()

    def of_target(self, function: Callable[..., Tensor], rows: Tensor) -> Tensor:
        """A function of features, class vectors and target, where this rank has the target."""
        # It asks for rivals, and looks at none: two rows of zeros are enough.
        rows = torch.cat([rows, rows.new_zeros(2, rows.shape[1])])
        value = function(self.x, rows, torch.arange(len(self.x), device=rows.device))
        return torch.where(self.y >= 0, value, 0)

    def losses(self, loss: Callable, penalty: Callable | None) -> PerExample:
        """One loss for each row, the same on all ranks."""
        function, given = _parts(loss)
        form, x, offset, origin = self.sight(function, given)
        margin, of_margin = 0.0, _MARGINS.get(function)
        of_targets = []
        if of_margin is not None:
            named = signature(of_margin).parameters
            given = {name: value for name, value in given.items() if name in named}
            of_targets.append(partial(of_margin, **given))
        elif function is cosface_loss:
            check_number("margin", given["margin"])
            margin = given["scale"] * given["margin"]
        if penalty is not None:
            of_targets.append(penalty)
        seen, sums = self.read(form, x, offset, origin, _asks(loss), of_targets)
        if function in _MARGINS:
            margin = sums.pop(0) if of_margin is not None else margin
            losses = soft_margin_loss(*_duel(seen.f_y, seen.lse), margin)
        else:
            losses = _LOSSES_OF_LOGITS[function].value(loss, seen)
        return sum(sums, losses)

    def read(
        self,
        form: _Form,
        x: Tensor,
        offset: Tensor | None,
        origin: Tensor | None,
        asks: frozenset[str],
        of_targets: list[Callable],
    ) -> tuple[_Seen, list[Tensor]]:
        """Look at this rank's classes, and put together what all ranks saw."""
        given = self.y, x, self.weight, offset, origin
        own_top, ties, rows, f_y, mass, moment, total, tied = _Pass.apply(
            form, self.block, asks, *given
        )
        top = _over_ranks(own_top, self.mesh, "max")
        drop = own_top - top
        columns = [f_y, mass * drop.exp(), *(self.of_target(one, rows) for one in of_targets)]
        if "means" in asks:
            rivals = len(self.weight) - (self.y >= 0).to(x.dtype)
            columns += [(moment + mass * drop) * drop.exp(), total + rivals * drop]
        if "strongest" in asks:
            columns += [torch.where(drop == 0, t, 0) for t in (tied, ties)]
        # In one message: on many devices it is their number that costs.
        f_y, mass, *sums = _over_ranks(torch.stack(columns), self.mesh).unbind()
        values, sums = sums[: len(of_targets)], sums[len(of_targets) :]
        seen = _Seen(self.count - 1, f_y - top, mass.log())
        if "means" in asks:
            seen = seen._replace(weighted=sums[0] / mass, mean=sums[1] / seen.count)
        if "strongest" in asks:
            seen = seen._replace(strongest=sums[-2] / sums[-1])
        return seen, values


def _sample(y: Tensor, held: int, kept: int) -> Tensor:
    """Places of ``kept`` of this rank's classes in order, all that ``y`` names among them."""
    # One place more, for the targets that are elsewhere; no value is read.
    score = torch.rand(held + 1, device=y.device)
    score.index_fill_(0, torch.where(y >= 0, y, held), 2.0)
    return score[:held].topk(kept).indices.sort().values


# --- The pass over this rank's classes -----------------------------------------------------


class _Pass(torch.autograd.Function):
    """What this rank saw of each row, (n,) each, measured from its own strongest rival.

    That rival's logit and how many tie with it, which are constants; the target's class vector
    (n, d), of no meaning where another rank has it; the target's logit, not measured from
    anything, there 0; of the rivals sum e^f, sum f e^f, sum f, and the sum over those that tie.  No
    logits are kept.
    """

    @staticmethod
    def forward(
        ctx: Any,
        form: _Form,
        block: int,
        asks: frozenset[str],
        y: Tensor,
        x: Tensor,
        weight: Tensor,
        offset: Tensor | None,
        origin: Tensor | None,
    ) -> tuple[Tensor, ...]:
        held = y.clamp_min(0)
        rows = widen(target_rows(weight, held)) if len(weight) else torch.zeros_like(x)
        y = y[:, None]
        # Not -inf, whose difference from itself is nothing; a half, so that no difference is.
        top = x.new_full(y.shape, 0.5 * torch.finfo(x.dtype).min)
        ties, f_y, mass, moment, total = (x.new_zeros(y.shape) for _ in range(5))
        for part, place, here in _blocks(len(weight), block, y):
            z = _block_logits(form, part, x, weight, offset, origin)
            own = z.gather(1, place)
            f_y = torch.where(here, own, f_y)
            z.scatter_(1, place, own.masked_fill(here, -math.inf))
            higher = torch.maximum(top, z.amax(dim=1, keepdim=True))
            drop, top = top - higher, higher
            z -= top
            q = z.exp()
            if "strongest" in asks:
                ties = torch.where(drop == 0, ties, 0) + (z == 0).sum(dim=1, keepdim=True)
            if "means" in asks:
                z.scatter_(1, place, z.gather(1, place).masked_fill(here, 0))
                rivals_before = part.start - ((y >= 0) & (y < part.start)).to(x.dtype)
                total = total + rivals_before * drop + z.sum(dim=1, keepdim=True)
                moment = (moment + mass * drop) * drop.exp() + z.mul_(q).sum(dim=1, keepdim=True)
            mass = mass * drop.exp() + q.sum(dim=1, keepdim=True)
        ctx.save_for_backward(y, x, weight, offset, origin, top)
        ctx.form, ctx.block, ctx.asks = form, block, asks
        constants = top.squeeze(1), ties.squeeze(1)
        ctx.mark_non_differentiable(*constants)
        tied = torch.zeros_like(mass)
        sums = (value.squeeze(1) for value in (f_y, mass, moment, total, tied))
        return *constants, rows, *sums

    @staticmethod
    def backward(
        ctx: Any, by_top: Tensor, by_ties: Tensor, by_rows: Tensor, *by: Tensor
    ) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise NotImplementedError(
                "a sharded head cannot be differentiated twice (create_graph=True); "
                "take a plain head"
            )
        y, x, weight, offset, origin, top = ctx.saved_tensors
        by_f_y, by_mass, by_moment, by_total, by_tied = (b[:, None] for b in by)
        to_x, to_weight = torch.zeros_like(x), torch.empty_like(weight)
        to_offset = None if offset is None else torch.empty_like(offset)
        with without_autocast(x):
            for part, place, here in _blocks(len(weight), ctx.block, y):
                z = _block_logits(ctx.form, part, x, weight, offset, origin).sub_(top)
                step = z.exp()
                if "means" in ctx.asks:
                    step = (step * (z + 1)).mul_(by_moment).add_(step.mul_(by_mass)).add_(by_total)
                else:
                    step *= by_mass
                if "strongest" in ctx.asks:
                    step += (z == 0) * by_tied
                step.scatter_(1, place, torch.where(here, by_f_y, step.gather(1, place)))
                v = _vectors(weight[part], origin)
                more_to_x, to_v = ctx.form.back(step, x, v)
                to_x += more_to_x
                # Added while it is wide: a half-precision gradient is then rounded once.
                to_v.index_add_(0, place.squeeze(1), torch.where(here, by_rows, 0))
                to_weight[part] = to_v
                if to_offset is not None:
                    to_offset[part] = step.sum(dim=0)
        return None, None, None, None, to_x, to_weight, to_offset, None
