"""Run a study: what its record lacks, one run after another, each kept at once.

    python -m marginlib.lab                                  the studies there are
    python -m marginlib.lab large_margin --dry-run           what would run, and how long
    python -m marginlib.lab large_margin --scale desk        run it, then print the table
    python -m marginlib.lab large_margin --minutes 30        stop in time; go on another day

A kill loses the run in progress and no other.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from . import evidence, studies

STOPPED = 130  # what a shell expects of a program that Ctrl-C ended
COLUMNS = ("error", "nll", "ece", "bias")


@dataclass(frozen=True)
class Planned:
    """One run to be made, and what its record will say of its settings."""

    method: str
    regime: str
    seed: int
    config: dict[str, Any]

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
                wanted.append(Planned(method, regime, seed, config))
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


def seconds(stem: str, planned: Planned) -> float | None:
    """How long such a run took on average, where the record knows."""
    kept = evidence.read(evidence.folder() / f"{stem}.json")
    same = [
        entry["seconds"]
        for entry in kept
        if all(entry["config"][key] == planned.config[key] for key in ("scale", "regime", "epochs"))
    ]
    return sum(same) / len(same) if same else None


def forecast(stem: str, todo: Sequence[Planned]) -> str:
    """Say how many runs there are to make, and how long they will take where that is known."""
    known = [s for planned in todo if (s := seconds(stem, planned)) is not None]
    said = f"{len(todo)} runs to make"
    if known:
        said += f", about {sum(known) / len(known) * len(todo) / 60:.1f} minutes as measured so far"
    return said


def carry_out(
    study: ModuleType, stem: str, scale: str, todo: Sequence[Planned], minutes: float | None
) -> None:
    """Make the runs and keep each at once; stop where the next would pass the limit."""
    from tqdm import tqdm

    begun, longest = time.monotonic(), 0.0
    with tqdm(todo, unit="run") as bar:
        for planned in bar:
            began = time.monotonic()
            if minutes is not None and began + longest > begun + 60 * minutes:
                break
            bar.set_postfix_str(str(planned))
            if not lacking(stem, [planned]):  # someone else has made it meanwhile
                continue
            run = study.study(planned.method, planned.seed, scale, planned.regime)
            evidence.keep(stem, run)
            bar.write(f"{planned.regime}, {planned.method}, {run}")
            longest = max(longest, time.monotonic() - began)


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
    parser.add_argument("--minutes", type=float, help="start no run that would end later")
    parser.add_argument("--dry-run", action="store_true", help="tell what would run")
    args = parser.parse_args(words)
    if args.study is None:
        print("\n".join(studies.names()))
        return 0
    try:
        study = studies.find(args.study)
        wanted = plan(study, args.scale, args.seeds, args.methods, args.regimes)
    except ValueError as error:
        parser.error(str(error))
    todo = lacking(args.study, wanted)
    print(f"{args.study}, {args.scale}: {forecast(args.study, todo)}; {len(wanted)} wanted")
    if args.dry_run:
        print("\n".join(map(str, todo)))
        return 0
    try:
        carry_out(study, args.study, args.scale, todo, args.minutes)
    except KeyboardInterrupt:
        print("stopped; every finished run is kept", file=sys.stderr)
        return STOPPED
    except ConnectionError as error:
        print(error, file=sys.stderr)
        return 1
    show(study, args.study, args.scale)
    return 0


if __name__ == "__main__":
    sys.exit(main())
