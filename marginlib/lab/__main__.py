"""Run a study: what its record lacks, one run after another, each kept at once.

    python -m marginlib.lab                                  the studies there are
    python -m marginlib.lab large_margin --dry-run           what would run, how long, how large
    python -m marginlib.lab large_margin --scale desk        run it, then print the table
    python -m marginlib.lab large_margin --budget 30         stop in 30 minutes; go on another day

A kill loses the run in progress and no other.  Two at a time share the runs: each takes those
that neither the record holds nor the other has begun.
"""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from . import evidence, forecast, studies
from .train import device_named

STOPPED = 130  # what a shell expects of a program that Ctrl-C ended
COLUMNS = ("error", "nll", "ece", "bias")


@dataclass(frozen=True)
class Planned:
    """One run to be made, and what its record will say of its settings."""

    method: str
    regime: str
    seed: int
    config: dict[str, Any]
    setting: studies.Setting

    def __str__(self):
        return f"{self.regime}, {self.method}, seed {self.seed}"


def plan(
    study: ModuleType,
    scale: str,
    seeds: Sequence[int] | None = None,
    methods: Sequence[str] | None = None,
    regimes: Sequence[str] | None = None,
) -> list[Planned]:
    """Every run asked for, seed by seed: stopped early, the methods still have equal shares.

    Raises:
        ValueError: for an unknown scale, regime or method; the message lists the good ones.
    """
    if unknown := sorted(set(methods or ()) - set(study.METHODS)):
        raise ValueError(
            f"there is no method {', '.join(unknown)}; there are {', '.join(study.METHODS)}"
        )
    if scale not in study.SCALES:
        raise ValueError(f"there is no scale {scale!r}; there are {', '.join(study.SCALES)}")
    wanted = []
    for regime in regimes or study.SCALES[scale]:
        setting = studies.setting_of(study.SCALES, scale, regime)
        for seed in setting.seeds if seeds is None else seeds:
            for method in methods or setting.methods or study.METHODS:
                named = {"method": method, "scale": scale, "regime": regime}
                config = studies.described(study.METHODS[method], setting, named)
                wanted.append(Planned(method, regime, seed, config, setting))
    return sorted(wanted, key=lambda planned: planned.seed)


def lacking(stem: str, wanted: Sequence[Planned]) -> list[Planned]:
    """Those of the wanted runs that the record does not hold under the same settings."""
    kept = evidence.read(evidence.folder() / f"{stem}.json")

    def held(planned: Planned) -> bool:
        return any(
            entry["seed"] == planned.seed and planned.config.items() <= entry["config"].items()
            for entry in kept
        )

    return [planned for planned in wanted if not held(planned)]


def carry_out(
    study: ModuleType,
    stem: str,
    scale: str,
    todo: Sequence[Planned],
    minutes: float | None = None,
    options: Mapping[str, Any] | None = None,
) -> list[Planned]:
    """Make the runs and keep each at once; start none that would pass the limit.

    ``options`` are passed on to the training.  Returns the runs that are still lacking: cut
    off by the limit, or in another's hands.
    """
    from tqdm import tqdm

    begun, longest, left = time.monotonic(), 0.0, list(todo)
    with tqdm(todo, unit="run") as bar:
        for planned in bar:
            began = time.monotonic()
            known = forecast.from_record(stem, planned.config)
            needed = max(longest, known.seconds if known else 0.0)
            if minutes is not None and began + needed >= begun + 60 * minutes:
                break
            bar.set_postfix_str(str(planned))
            with evidence.claimed(stem, {"config": planned.config, "seed": planned.seed}) as mine:
                if not mine:  # another process is making it
                    continue
                left.remove(planned)
                if not lacking(stem, [planned]):  # another has made it meanwhile
                    continue
                place = (planned.method, planned.seed, scale, planned.regime)
                run = study.study(*place, **(options or {}))
                evidence.keep(stem, run)
            bar.write(f"{planned.regime}, {planned.method}, {run}")
            longest = max(longest, time.monotonic() - began)
    return lacking(stem, left)


def show(study: ModuleType, stem: str, scale: str) -> None:
    """Print where the runs of a scale were made, and a table for each regime."""
    try:
        record = evidence.recall(stem).select(scale=scale)
    except FileNotFoundError:
        print("nothing is kept yet")
        return
    print(record)
    for regime in study.SCALES[scale]:
        part = record.select(regime=regime)
        if len(part):
            present = {run.config["method"] for run in part.runs}
            order = [method for method in study.METHODS if method in present]
            print(f"\n{regime}\n{part.table(measure=COLUMNS, order=order)}")


def main(words: Sequence[str] | None = None) -> int:
    """Do what the command line says; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m marginlib.lab",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("study", nargs="?", help="a stem; without it, the studies are listed")
    parser.add_argument("--scale", default="pocket", help="pocket, desk, colab or full")
    parser.add_argument("--seeds", type=int, nargs="+", help="by default, the setting's own")
    parser.add_argument("--methods", nargs="+", help="by default, the setting's own")
    parser.add_argument("--regimes", nargs="+", help="by default, all of the scale")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ...; by default cuda where it is")
    parser.add_argument(
        "--budget", type=float, metavar="MINUTES", help="start no run that would end later"
    )
    parser.add_argument("--compile", action="store_true", help="torch.compile the network first")
    parser.add_argument("--dry-run", action="store_true", help="tell what would run")
    args = parser.parse_args(words)
    if args.study is None:
        print("\n".join(studies.names()))
        return 0
    try:
        study = studies.find(args.study)
        wanted = plan(study, args.scale, args.seeds, args.methods, args.regimes)
        device = device_named(args.device)
    except ValueError as error:
        parser.error(str(error))
    todo = lacking(args.study, wanted)
    if args.dry_run:
        costs = [forecast.cost(args.study, p.config, p.setting, device) for p in todo]
        print(f"{args.study}, {args.scale}: {forecast.told(costs)}; {len(wanted)} wanted")
        print("\n".join(map(str, todo)))
        return 0
    costs = [forecast.from_record(args.study, planned.config) for planned in todo]
    said = forecast.told(costs, "a length that no record knows")
    print(f"{args.study}, {args.scale}: {said}; {len(wanted)} wanted")
    try:
        options = {"device": device} | ({"compiled": True} if args.compile else {})
        left = carry_out(study, args.study, args.scale, todo, args.budget, options)
    except KeyboardInterrupt:
        print("stopped; every finished run is kept", file=sys.stderr)
        return STOPPED
    except ConnectionError as error:
        print(error, file=sys.stderr)
        return 1
    if left:
        print(f"{len(left)} runs are still to be made; the same command goes on with them")
    show(study, args.study, args.scale)
    return 0


if __name__ == "__main__":
    sys.exit(main())
