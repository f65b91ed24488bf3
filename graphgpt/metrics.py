"""What a number says that a task, a model or a run measures: its name, its title, its unit, and which end of it is the good one."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self, TypeVar

from typing_extensions import TypedDict

T = TypeVar("T")

Unit = Literal["%", ""]


class MetricRecord(TypedDict):
    """A metric in a file, under its name."""

    title: str
    legend: str
    less_is_better: bool
    unit: Unit


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric as its owner declares it, so that reports, comparisons of runs and the choice of the best state need no list of names.

    Args:
        name: As in files and on the command line: ``macro_f1``.
        title: What tables call it: ``Macro-F1``.
        legend: What a short title stands for, as in ``AUC: area under the ROC curve``; empty where the title says it.
        less_is_better: Whether the lower value is the better one.
        unit: ``%`` for shares, which are kept as fractions and shown in per cent; empty for a number of its own scale.
    """

    name: str
    title: str
    legend: str = ""
    less_is_better: bool = False
    unit: Unit = "%"

    @classmethod
    def undeclared(cls, name: str) -> Self:
        """A metric of which a file knows the name alone, as files did that are older than declarations: a loss is best when small."""
        loss = "loss" in re.split(r"[/_ ]", name.lower())
        return cls(name=name, title=name.replace("_", " ").capitalize(), less_is_better=loss, unit="" if loss else "%")

    @classmethod
    def read(cls, name: str, record: Mapping[str, Any]) -> Self:
        """A metric from a file; what else stands there was written by a later version."""
        return cls(name=name, **{key: record[key] for key in MetricRecord.__annotations__})

    @property
    def record(self) -> dict[str, Any]:
        """What a file holds of it, under its name."""
        return {name: value for name, value in asdict(self).items() if name != "name"}

    @property
    def best_mode(self) -> Literal["min", "max"]:
        """Which of its values is the best."""
        return "min" if self.less_is_better else "max"

    def best(self, of: Iterable[T], value: Callable[[T], float]) -> T | None:
        """The one with the best value, of equals the first; None of none."""
        return (min if self.less_is_better else max)(of, key=value, default=None)

    def whole(self, values: Iterable[float]) -> float:
        """Where a bar ends: at 1 for shares, else at the highest of the values that are drawn."""
        return 1.0 if self.unit else max([value for value in values if value > 0], default=1.0)

    def number(self, value: float) -> str:
        """A value without its unit: ``82.3`` of 0.823 in per cent, ``0.823`` where there is none."""
        return f"{100 * value:.1f}" if self.unit else f"{value:.3f}"

    def text(self, value: float) -> str:
        """A value with its unit."""
        return f"{self.number(value)}{self.unit}"


#: What is measured of any task whose answers are chosen.
ACCURACY = Metric(name="accuracy", title="Accuracy")
#: Of answers that are written where one of some is wanted.
INVALID = Metric(name="invalid", title="Invalid", legend="Invalid: written answers that name no candidate", less_is_better=True)
#: What is measured of anything that is trained.
LOSS = Metric(name="loss", title="Loss", less_is_better=True, unit="")


class Declared(dict[str, Metric]):
    """Metrics by name, and for any other name one that knows no more than that."""

    def __missing__(self, name: str) -> Metric:
        return Metric.undeclared(name)

    @classmethod
    def of(cls, metrics: Iterable[Metric]) -> Self:
        """Metrics by their own names."""
        return cls({metric.name: metric for metric in metrics})

    @classmethod
    def read(cls, records: Mapping[str, Mapping[str, Any]] | None) -> Self:
        """Metrics from a file, which has none where it is older than declarations."""
        return cls({name: Metric.read(name, record) for name, record in (records or {}).items()})

    @property
    def records(self) -> dict[str, dict[str, Any]]:
        """What a file holds of them."""
        return {name: metric.record for name, metric in self.items()}
