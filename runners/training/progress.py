"""The one look of long work."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

#: Narrower terminals get no bar: the counters say as much.
WIDE = 110


class Figures(ProgressColumn):
    """The figures of a task, cut where the terminal ends, so that everything else stays whole."""

    def __init__(self) -> None:
        super().__init__(table_column=Column(ratio=1))

    def render(self, task: Task) -> Text:
        return Text(task.fields["figures"], no_wrap=True, overflow="ellipsis")


def progress_bar(console: Console | None = None) -> Progress:
    """The one look of long work: what, how far, time left, and figures in ``figures``."""
    console = console or Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        *([BarColumn(bar_width=24)] if console.width >= WIDE else []),
        MofNCompleteColumn(),
        Figures(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        expand=True,
    )
