"""What is handed in after an experiment, read as a referee would.

The exercises end with it.  Whether an answer is right is for the runs to say; whether it may be
said is for the form: what was expected and what would have refuted it, several seeds, the same
for both sides, and a verdict that is the interval's own.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from .evidence import FINISHED, Record

Asked = tuple[str, str, str]  # (first, second, measure): how much more has the first?


@dataclass(frozen=True)
class Report:
    """An experiment as it is handed in.

    Attributes:
        expected: a sentence, written before the runs.
        refuted_by: another: what would have shown that you are wrong.
        runs: all of them, each with its seed and with the name of its method.
        said: for each question ``(first, second, measure)`` the verdict, in the words of
            :attr:`Difference.verdict <marginlib.lab.evidence.Difference.verdict>`.
    """

    expected: str
    refuted_by: str
    runs: Record
    said: Mapping[Asked, str]


def review(report: Report, *asked: Asked, seeds: int = 3) -> str:
    """Say ``"right"``, or what a referee would send the report back for.

    Args:
        report: what was handed in.
        asked: the questions that it must answer, ``(first, second, measure)``.
        seeds: how many both methods of a question need.

    Which verdict is said does not matter, if it is the interval's.

    >>> review(Report("", "", Record("mine", ()), {}), ("mine", "softmax", "error"))
    'before the runs, write down what you expect and what would refute it'
    """
    before = [" ".join(words.lower().split()) for words in (report.expected, report.refuted_by)]
    if not all(before):
        return "before the runs, write down what you expect and what would refute it"
    if before[0] == before[1]:
        return "what you expect cannot be what refutes it"
    for first, second, measure in asked:
        sides = [
            [run for run in report.runs.runs if run.config.get("method") == name]
            for name in (first, second)
        ]
        for name, side in zip((first, second), sides, strict=True):
            if not side:
                return f"there is no run of {name!r}"
            if len({run.seed for run in side}) < seeds:
                return f"{name!r} needs {seeds} seeds or more: one run does not know its luck"
            if any(run.ended != FINISHED for run in side):
                return f"a run of {name!r} diverged: its error is not missing, it is unknown"
            if any(measure not in run.test for run in side):
                return f"a run of {name!r} has not measured {measure!r} on the test images"
        seen = [{(run.seed, run.source, *at(run.config)) for run in side} for side in sides]
        if seen[0] != seen[1]:
            return (
                f"{first!r} and {second!r} differ in more than the method: "
                "the same seeds, images and setting make a pair"
            )
        found = report.runs.paired(first, second, measure)
        said = report.said.get((first, second, measure))
        if said is None:
            return f"nothing is said about {measure} of {first!r} beside {second!r}"
        if said != found.verdict:
            return f"you say {said!r}, but the interval says otherwise: {found}"
    return "right"


def at(config: Mapping[str, object]) -> tuple[object, object]:
    """Where a run was made: its scale and its regime."""
    return config.get("scale"), config.get("regime")
