"""Where logged figures go beside metrics.jsonl: a table, and the run's place in the services that keep many runs.

Each class takes the run folder as ``save_dir``. A service gets to know a run by that folder, so that a resumed run goes on in
the same curves.
"""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from graphgpt.errors import GraphGPTError, first_line
from graphgpt.files.atomic import fingerprint, write_text
from graphgpt.runs.runs import read_metrics


def run_name(save_dir: str) -> str:
    """What services call a run: the last two parts of its folder, such as ``stage1-2026-11-21_10-30-00``."""
    return "-".join(Path(save_dir).resolve().parts[-2:])


class CsvFile(Logger):
    """``metrics.csv``: what metrics.jsonl holds as a table, a row per logged line and a column per metric.

    Written anew from metrics.jsonl when the run begins or goes on and when a metric comes for the first time, else appended to.

    Args:
        save_dir: Run folder, with a metrics.jsonl that is written first.
    """

    def __init__(self, save_dir: str) -> None:
        super().__init__()
        self.folder = Path(save_dir)
        self._columns: list[str] = []

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        return None

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        row = {"step": step, **{name: value for name, value in metrics.items() if name != "epoch"}}
        if row.keys() <= set(self._columns):
            with (self.folder / "metrics.csv").open("a", encoding="utf-8", newline="") as file:
                csv.DictWriter(file, self._columns).writerow(row)
            return
        rows = read_metrics(self.folder)
        self._columns = [name for name in dict.fromkeys(name for line in rows for name in line) if name != "time"]
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, self._columns, extrasaction="ignore")
        table.writeheader()
        table.writerows(rows)
        write_text(self.folder / "metrics.csv", text.getvalue())


class WandbRun(WandbLogger):
    """Lightning's logger for Weights & Biases.

    Args:
        save_dir: Run folder.
        offline: Keep everything in the run folder, until ``wandb sync``.
        arguments: Of Lightning's class and of ``wandb.init``.
    """

    def __init__(self, save_dir: str, offline: bool = False, **arguments: Any) -> None:
        own: dict[str, Any] = {"name": run_name(save_dir), "version": fingerprint(str(Path(save_dir).resolve()))}
        if offline:
            own["mode"] = "offline"  # Lightning would say so to every later run of this process too
        super().__init__(save_dir=save_dir, **(own | arguments))

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The wandb run.

        Raises:
            GraphGPTError: wandb refuses, for example because nobody is logged in.
        """
        import wandb

        try:
            return super().experiment
        except wandb.errors.Error as error:
            raise GraphGPTError(
                f"runner.loggers.wandb: {first_line(error)} Or stay on this machine: runner.loggers.wandb.offline=true."
            ) from error

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """End the run, or the next training in this process would be logged into it."""
        super().finalize(status)
        if self._experiment is not None:
            self._experiment.finish(exit_code=0 if status == "success" else 1)
            self._experiment = None


class MlflowRun(MLFlowLogger):
    """Lightning's logger for MLflow.

    Args:
        save_dir: Run folder.
        arguments: Of Lightning's class.
    """

    FOLDER = "graphgpt.folder"

    def __init__(self, save_dir: str, **arguments: Any) -> None:
        folder = str(Path(save_dir).resolve())
        super().__init__(**({"run_name": run_name(save_dir), "tags": {self.FOLDER: folder}} | arguments))
        self._folder = folder

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The MLflow client, with the run made or found again."""
        if not self._initialized and (known := self._mlflow_client.get_experiment_by_name(self._experiment_name)) is not None:
            found = self._mlflow_client.search_runs([known.experiment_id], f"tags.`{self.FOLDER}` = '{self._folder}'", max_results=1)
            self._run_id = found[0].info.run_id if found else self._run_id
        return super().experiment

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        """Log the settings, once: MLflow keeps those that a run began with."""
        if not self.experiment.get_run(self.run_id).data.params:
            super().log_hyperparams(params)

    @rank_zero_only
    def log_text(self, key: str, columns: Sequence[str], data: Sequence[Sequence[str]], step: int) -> None:
        """Write rows of text as a Markdown file among the run's artifacts."""
        self.experiment.log_text(self.run_id, as_markdown(columns, data), f"{key}/step_{step}.md")


class TrackioLogger(Logger):
    """Figures for Trackio's dashboard (https://github.com/gradio-app/trackio), on this machine unless told otherwise.

    Args:
        save_dir: Run folder.
        project: Under which the runs stand together.
        arguments: Of ``trackio.init``, such as ``space_id``.
    """

    def __init__(self, save_dir: str, project: str = "graphgpt", **arguments: Any) -> None:
        super().__init__()
        own: dict[str, Any] = {"project": project, "name": run_name(save_dir), "resume": "allow", "embed": False}
        self._arguments = own | arguments
        self._run: Any = None

    @property
    def name(self) -> str:
        return str(self._arguments["project"])

    @property
    def version(self) -> str:
        return str(self._arguments["name"])

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """Trackio's run."""
        if self._run is None:
            import trackio

            self._run = trackio.init(**self._arguments)
        return self._run

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self._arguments["config"] = params

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.experiment.log(dict(metrics), step=step)

    @rank_zero_only
    def log_text(self, key: str, columns: Sequence[str], data: Sequence[Sequence[str]], step: int) -> None:
        """Log rows of text as a table."""
        import pandas as pd
        import trackio

        self.experiment.log({key: trackio.Table(dataframe=pd.DataFrame(data, columns=list(columns)))}, step=step)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        if self._run is not None:
            self._run.finish()
            self._run = None


def log_text(logger: Logger, key: str, columns: Sequence[str], data: Sequence[Sequence[str]], step: int) -> None:
    """Rows of text to a logger that has a place for them; any other leaves them out."""
    if isinstance(logger, TensorBoardLogger):
        logger.experiment.add_text(key, as_markdown(columns, data), step)
    elif isinstance(logger, WandbLogger):
        logger.log_text(key, columns=list(columns), data=[list(row) for row in data], step=step)
    elif isinstance(logger, MlflowRun | TrackioLogger):
        logger.log_text(key, columns, data, step)


def as_markdown(columns: Sequence[str], data: Sequence[Sequence[str]]) -> str:
    """Rows of text, one below the other, for text has no narrow columns."""
    blocks = ["\n\n".join(f"**{name}**\n\n{_indented(text)}" for name, text in zip(columns, row, strict=True)) for row in data]
    return "\n\n---\n\n".join(blocks)


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines()) or "    "
