"""The same head on every rank, each with rows of its own (chapter 13).

``DistributedDataParallel`` and FSDP average the ranks' gradients.  That is the gradient of the
whole batch wherever a batch's loss is the mean of its rows' losses, and this holds for every
head of this book as it is, with two exceptions, and here is what each of them needs:

    what reads the whole batch                 what makes it agree
    the grouping of GroupHead                  shared_grouping(discriminative_groups)
    a mean over rows that do not all count     mean_over_ranks(head, features, target)

A row does not count fully where ``ignore_index`` or ``class_weight`` says so: the ranks' weights
then add up to different numbers, and a mean of means is not the mean.  Noise and dropout belong
to the row; give each rank a seed of its own.  The ensemble's penalty and the mixture's origin read
the parameters alone.

Derived   chapters/13_at_scale.ipynb
Source    The grouping is chapter 7's; what the two wrappers average is in torch's notes on
          ``DistributedDataParallel``.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor

from ..group import discriminative_groups
from ..heads import Head

Score = Float[Tensor, " d"]
Grouping = Callable[[Score, int], Sequence[Int[Tensor, " k"]]]


def shared_grouping(
    grouping: Grouping = discriminative_groups, process_group: dist.ProcessGroup | None = None
) -> Grouping:
    """One grouping of the features for all ranks, from the score of all their rows.

    The score is a mean over the rows of the batch, so the mean of the ranks' scores is that of
    all rows, if all ranks have as many; ignored rows are rows, as in ``GroupHead``.  Every
    rank then takes the groups that the first one found, so that random groups agree, too.  That
    is 4 d bytes averaged and 8 d bytes sent for each number of groups that is cut afresh.

    Args:
        grouping: ``discriminative_groups``, ``random_groups``, ``fixed_groups`` or your own.
        process_group: the ranks that share; None is all of them.

    Returns:
        A grouping for ``GroupHead(..., grouping=...)``.  Without a process group it is the one
        that was given.

    >>> from marginlib import GroupHead
    >>> head = GroupHead(512, 100, groups=(1, 2, 4), grouping=shared_grouping())
    >>> head(torch.randn(8, 512), torch.arange(8)).shape
    torch.Size([])
    """
    # Not a function within: a head that holds it could not be pickled.
    return partial(_shared, grouping, process_group)


def _shared(
    grouping: Grouping, process_group: dist.ProcessGroup | None, score: Score, groups: int
) -> Sequence[Int[Tensor, " k"]]:
    if not dist.is_initialized():
        return grouping(score, groups)
    score = score / dist.get_world_size(process_group)
    dist.all_reduce(score, group=process_group)
    parts = grouping(score, groups)
    order = torch.cat(tuple(parts))
    first = 0 if process_group is None else dist.get_global_rank(process_group, 0)
    dist.broadcast(order, first, group=process_group)
    return order.split([len(part) for part in parts])


def mean_over_ranks(
    head: Head,
    features: Float[Tensor, "n d"],
    target: Int[Tensor, " n"],
    process_group: dist.ProcessGroup | None = None,
) -> Float[Tensor, ""]:
    """A loss whose mean over the ranks is the mean over all their rows, each with its weight.

    Where every row counts alike and all ranks have as many, it is ``head(features, target)``.
    Averaged by ``DistributedDataParallel``, its gradient is that of the whole batch; call it in
    the ``forward`` of the module that is wrapped.  It moves one number.

    Args:
        head: a head with ``reduction="none"``.
        features: this rank's rows; their number may differ from rank to rank.
        target: this rank's labels.
        process_group: the ranks that share; None is all of them.

    Returns:
        ``R sum_i w_i l_i / W``: this rank's weighted losses, the weight W of the rows of all R
        ranks.  NaN if no row counts anywhere.

    Raises:
        ValueError: for another reduction.
        RuntimeError: without a process group.

    >>> from marginlib import LinearHead
    >>> store = torch.distributed.HashStore()
    >>> torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    >>> head, features = LinearHead(4, 3, reduction="none"), torch.randn(2, 4)
    >>> loss = mean_over_ranks(head, features, torch.tensor([2, -100]))
    >>> bool(loss == head(features, torch.tensor([2, -100]))[0])
    True
    >>> torch.distributed.destroy_process_group()
    """
    if head.reduction != "none":
        raise ValueError(f'expected a head with reduction="none"; got {head.reduction!r}')
    if not dist.is_initialized():
        raise RuntimeError(
            "a mean over ranks needs a process group: start the script by torchrun and call "
            "torch.distributed.init_process_group() first"
        )
    total, target = head(features, target).sum(), target.long()
    kept = target != head.ignore_index
    weight = kept.to(total.dtype)
    if head.class_weight is not None:
        # An ignored label need not be a class; class 0 stands in and is not counted.
        weight = weight * head.class_weight.to(total.dtype)[torch.where(kept, target, 0)]
    weight = weight.sum()
    dist.all_reduce(weight, group=process_group)
    return total * dist.get_world_size(process_group) / weight
