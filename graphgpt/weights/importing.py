"""``graphgpt weights import``: what GraphGPT's own programs wrote becomes a checkpoint folder, or a folder of tower weights."""

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graphgpt.checkpoints.card import write_card
from graphgpt.checkpoints.folder import write_checkpoint
from graphgpt.config.command_line import check_command_line
from graphgpt.config.experiment import ExperimentConfig
from graphgpt.errors import CheckpointError, GraphGPTError, nearest
from graphgpt.files.atomic import atomic_folder, file_sha256, write_json
from graphgpt.files.configs import CONFIG_DIR
from graphgpt.files.tensors import TensorFiles, read_json
from graphgpt.models.fit import check_fit, check_weights
from graphgpt.models.llm import load_config
from graphgpt.models.tower import TOWER_CARD, TOWER_TENSORS, find_tower, tower_card
from graphgpt.registry import TOWERS
from graphgpt.schema import flat, parse
from graphgpt.weights.base import PER_TOKEN, Base, base_facts, plain_config, write_base
from graphgpt.weights.layouts import TOKENS, Layout, recognise, tower_fields
from graphgpt.weights.writer import SHARD

log = logging.getLogger(__name__)

#: Rows of the released vocabulary that our model has no use for, kept so that an export gives back what was imported.
RELEASED_ROWS = "released_rows"

#: What the released model was made for, unless other settings are given.
DEFAULTS = ("task=instructions", "dataset=graphgpt_mix", "model/projector=linear", "model/template=vicuna_v1")

#: The system message of the original's evaluation (its template graphchat_v1), to the letter.
GRAPHCHAT = (
    "You are GraphGPT, a large language and graph-structral assistant trained by HKUDS Lab."
    "You are able to understand the graph structures that the user provides, and assist the user with a variety of tasks using "
    "natural language.Follow the instructions carefully and explain your answers in detail."
)


@dataclass(frozen=True)
class TowerWeights:
    """A tower's weights and what they are for.

    Args:
        config: Fields of ``model.tower``.
        state: As of the tower, float32.
        input_dim: Features per node.
    """

    config: dict[str, Any]
    state: dict[str, Tensor]
    input_dim: int


def import_weights(
    path: Path,
    out: Path,
    *,
    llm: str | None = None,
    tower: str | None = None,
    base: Path | None = None,
    compat: bool = False,
    overrides: Sequence[str] = (),
    shard: int = SHARD,
    say: Callable[[str], None] = print,
) -> None:
    """Import a file, index or folder of weights.

    Args:
        path: A released tower, a projector, a full GraphGPT model or a trainer's checkpoint; which, its content says.
        out: Folder to make: of tower weights for a tower, else a checkpoint.
        llm: Language model: name of a shipped config, local folder or hub id; GraphGPT's unless given.
        tower: Where a source without a tower takes it from: a released tower, an imported one, or a tower's config name.
        base: Folder to write the language model of a full model to.
        compat: Do as the original does: edges in the released direction, its evaluation's system message, only the last of
            several graphs read, and the tower's dropout never off.
        overrides: Settings of the checkpoint's experiment, as for ``train.py``.
        shard: Bytes per file of ``base``.
        say: Is told what was found and made.

    Raises:
        GraphGPTError: nothing known is in it, something is missing, or it does not fit the language model; nothing is written.
    """
    for folder in (out, base):
        if folder is not None and (folder.exists() or folder.is_symlink()):
            raise GraphGPTError(f"{folder} exists already; choose another name.")
    source = TensorFiles(path)
    layout = recognise(source.specs, source.path)
    say(f"{source.path} is {layout.words}.")
    origin = {"path": str(source.path.absolute()), "kind": layout.kind, "sha256": file_sha256(source.path)}
    if layout.kind == "tower":
        if unused := [name for name, value in (("--llm", llm), ("--tower", tower), ("--base", base)) if value is not None]:
            raise GraphGPTError(f"{source.path} is a tower alone: {', '.join(unused)} has no use here.")
        weights = read_tower(source, layout)
        write_tower(out, weights, origin)
        _say_heads(weights, source, say)
        say(f"Wrote {out}. Use it: model/tower=graph_transformer model.tower.init_from={out}{_as_overrides(weights.config)}")
        return
    card = _beside(source, "config.json")
    parts, vocabulary = _projector_parts(source, layout, card)
    width = parts["graph/projector"]["linear.weight"].shape[1]
    chosen = _choose_tower(source, layout, tower, say)
    experiment = _experiment(source, card, llm, base, chosen, compat, overrides)
    if isinstance(chosen, TowerWeights):
        if chosen.config.get("output_dim") != width:
            raise CheckpointError(
                f"{source.path}: its projector reads {width} numbers per node; the tower gives {chosen.config.get('output_dim')}."
            )
        parts["graph/tower"] = chosen.state
    if experiment.model.compat.last_input_only:
        if RELEASED_ROWS not in parts:
            raise GraphGPTError(
                f"{source.path} has no row of <g_patch>, which the original puts where it drops a graph; "
                "leave --compat out, and set what else you want of it with --set."
            )
        parts["graph/fusion"]["blank"] = parts[RELEASED_ROWS]["patch"]
    own = Base(source, layout.base, vocabulary, shard) if layout.base else None
    facts = _llm_facts(source, layout, experiment.model.llm, own, parts, vocabulary, card, base is not None)
    if base is not None and own is None:
        raise GraphGPTError(f"{source.path} holds no language model: --base has no use here.")
    features = chosen.input_dim if isinstance(chosen, TowerWeights) else None
    # Both or neither: the checkpoint is written before the language model's folder takes its name.
    with atomic_folder(base) if base is not None else contextlib.nullcontext() as tmp:
        if tmp is not None and own is not None:
            plain = plain_config(card if card is not None else load_config(experiment.model.llm).to_dict(), facts["vocabulary"])
            write_base(tmp, own, plain, source.folder)
        write_checkpoint(
            out,
            parts,
            experiment,
            llm=facts,
            data={"name": "released", "fingerprint": None, "features": features},
            history=[],
            facts={"imported": origin},
        )
    write_card(out)
    if base is not None:
        say(f"Wrote {base}, the language model as a plain folder.")
    if facts["fingerprint"] is None:
        say(f"The language model {experiment.model.llm.path} is not on this machine: whether it is the right one will not be checked.")
    say(f"Wrote {out}. Look at it: graphgpt weights show {out}")


def read_tower(source: TensorFiles, layout: Layout) -> TowerWeights:
    """The tower in a source; all of its tensors, and no others.

    Raises:
        CheckpointError: it is no graph transformer, or its tensors and its ``config.json`` do not fit.
    """
    shapes = {ours: source.specs[theirs].shape for ours, theirs in layout.tower.items()}
    card = _beside(source, "config.json") if layout.kind == "tower" else None
    fields = {"name": "graph_transformer", **tower_fields(card, shapes, source.path)}
    state = _weights(source, layout.tower)
    cls = TOWERS.get("graph_transformer")
    problems: list[str] = []
    config: Any = parse(cls.Config, fields, problems, "model.tower")
    problems += [] if problems else cls.problems(config)
    if problems:
        raise CheckpointError(f"{source.path}: its tower cannot be built. {problems[0]}")
    if "W_P.weight" not in state:
        raise CheckpointError(f"{source.path} does not fit: its tower has no 'W_P.weight'.")
    weights = TowerWeights(fields, state, input_dim=state["W_P.weight"].shape[1])
    with torch.device("meta"):
        expected = cls(config, weights.input_dim).state_dict()
    check_fit(source.path, "tower", state, expected)
    return weights


def write_tower(out: Path, weights: TowerWeights, origin: dict[str, Any]) -> None:
    """Write a folder that ``model.tower.init_from`` can name."""
    from safetensors.torch import save_file

    with atomic_folder(out) as tmp:
        save_file(weights.state, tmp / TOWER_TENSORS)
        write_json(tmp / TOWER_CARD, {"tower": weights.config, "input_dim": weights.input_dim, "imported": origin})


def _weights(source: TensorFiles, names: Mapping[str, str]) -> dict[str, Tensor]:
    """Tensors of a source under our names, float32.

    Raises:
        CheckpointError: one holds something else than finite floating-point numbers.
    """
    tensors = source.read(names.values())
    for name, tensor in tensors.items():
        check_weights(f"{source.path}: '{name}'", tensor)
    return {ours: tensors[theirs].float().clone() for ours, theirs in names.items()}


def _beside(source: TensorFiles, name: str) -> dict[str, Any] | None:
    file = source.folder / name
    return read_json(file) if file.is_file() else None


def _say_heads(weights: TowerWeights, source: TensorFiles, say: Callable[[str], None]) -> None:
    if not (source.folder / "config.json").is_file():
        say(f"No config.json lies beside it: heads are taken to be {weights.config['heads']}, as released, which shapes do not tell.")


def _projector_parts(source: TensorFiles, layout: Layout, card: dict[str, Any] | None) -> tuple[dict[str, dict[str, Tensor]], int | None]:
    """Projector, modality tokens and the rows that are kept for an export; and how many rows are the language model's own."""
    if layout.embeddings is None:
        raise CheckpointError(f"{source.path} has no embedding matrix, and so no rows for <g_start> and <g_end>.")
    if card is not None and card.get("use_graph_start_end") is False:
        raise CheckpointError(
            f"{source.path} was trained without <g_start> and <g_end> (use_graph_start_end is false), which our prompts have."
        )
    head = layout.base.get(PER_TOKEN[1])
    projector = _weights(source, layout.projector)
    weight, bias = (list(projector[f"linear.{leaf}"].shape) for leaf in ("weight", "bias"))
    if len(weight) != 2 or bias != weight[:1]:
        raise CheckpointError(f"{source.path}: its projector has a weight of shape {weight} and a bias of {bias}; expected [m, n] and [m].")
    # The whole matrix of a language model is not copied, nor looked through.
    tensors = source.read([layout.embeddings, *([head] if head else [])])
    matrix, hidden = tensors[layout.embeddings], weight[0]
    if matrix.ndim != 2 or matrix.shape[1] != hidden or len(matrix) < 2:
        raise CheckpointError(
            f"{source.path}: '{layout.embeddings}' has the shape {list(matrix.shape)}; expected [tokens, {hidden}], as the projector."
        )
    if head is not None and tensors[head].shape != matrix.shape:
        raise CheckpointError(
            f"{source.path}: '{head}' has the shape {list(tensors[head].shape)}; expected {list(matrix.shape)}, as '{layout.embeddings}'."
        )
    for name, tensor in tensors.items():
        check_weights(f"{source.path}: '{name}'", tensor[-len(TOKENS) :])
    parts = {"graph/projector": projector, "graph/fusion": {"weight": matrix[-2:].float().clone()}}
    if len(matrix) <= len(TOKENS):
        return parts, None
    _check_added(source, len(matrix))
    rows = len(matrix) - len(TOKENS)
    parts[RELEASED_ROWS] = {"patch": matrix[rows : rows + 1].float().clone()}
    if head is not None:
        parts[RELEASED_ROWS]["head"] = tensors[head][rows:].float().clone()
    return parts, rows


def _check_added(source: TensorFiles, rows: int) -> None:
    """Where the graph's tokens are listed, they must be the last rows, in the released order."""
    added = _beside(source, "added_tokens.json")
    expected = {token: rows - len(TOKENS) + place for place, token in enumerate(TOKENS)}
    if added is not None and {token: added.get(token) for token in TOKENS} != expected:
        found = {token: added.get(token) for token in TOKENS}
        raise CheckpointError(f"{source.folder / 'added_tokens.json'}: expected {expected}, found {found}.")


def _choose_tower(source: TensorFiles, layout: Layout, tower: str | None, say: Callable[[str], None]) -> TowerWeights | str:
    """The tower's weights, from the source or from what ``--tower`` names; or the name of a tower's config that has none."""
    if layout.tower:
        if tower is not None:
            raise GraphGPTError(f"{source.path} has its own tower: --tower has no use here.")
        weights = read_tower(source, layout)
        say(f"Its tower is taken to have {weights.config['heads']} heads, as released, which shapes do not tell.")
        return weights
    shipped = sorted(path.stem for path in (CONFIG_DIR / "model" / "tower").glob("*.yaml"))
    known = [name for name in shipped if name in TOWERS.names() and not TOWERS.get(name).has_weights]
    if tower is None:
        raise GraphGPTError(
            f"{source.path} has no tower. Name its weights: --tower FOLDER, such as the released clip_gt_arxiv_pub; "
            f"or a tower without weights: --tower {', '.join(known)}."
        )
    with contextlib.suppress(CheckpointError):
        folder = find_tower(tower)
        files, card = TensorFiles(folder / TOWER_TENSORS), tower_card(folder)
        return TowerWeights(card["tower"], files.read(files.specs), card["input_dim"])
    if Path(tower).expanduser().exists():
        other = TensorFiles(Path(tower).expanduser())
        its = recognise(other.specs, other.path)
        if not its.tower:
            raise GraphGPTError(f"--tower {tower} is {its.words}: it holds no tower.")
        return read_tower(other, its)
    if tower not in known:
        raise GraphGPTError(f"--tower {tower} is no file, no folder and no config of a tower without weights. {nearest(tower, known)}")
    return tower


def _as_overrides(config: dict[str, Any]) -> str:
    """What of a tower's config differs from the shipped one, as overrides."""
    default = flat(dataclasses.asdict(TOWERS.get(config["name"]).Config(name=config["name"])))
    return "".join(f" model.tower.{name}={value}" for name, value in flat(config).items() if default.get(name) != value)


def _experiment(
    source: TensorFiles,
    card: dict[str, Any] | None,
    llm: str | None,
    base: Path | None,
    tower: TowerWeights | str,
    compat: bool,
    overrides: Sequence[str],
) -> ExperimentConfig:
    """The experiment of the checkpoint: GraphGPT's settings and what the user changes of them."""
    scaled = bool((card or {}).get("rope_scaling"))
    given = ["model/llm=vicuna_7b_16k" if scaled else "model/llm=vicuna_7b"]
    if llm is not None:
        shipped = (CONFIG_DIR / "model" / "llm" / f"{llm}.yaml").is_file()
        folder = Path(llm).expanduser()
        if not shipped and "/" not in llm and not folder.is_dir():
            raise GraphGPTError(
                f"--llm {llm} is no shipped config, no folder and no hub id. "
                f"{nearest(llm, [path.stem for path in (CONFIG_DIR / 'model' / 'llm').glob('*.yaml')])}"
            )
        given = [f"model/llm={llm}"] if shipped else [*given, f"model.llm.path={folder.absolute() if folder.is_dir() else llm}"]
    if isinstance(tower, TowerWeights):
        given += [f"model/tower={tower.config['name']}", *_as_overrides(tower.config).split()]
        given += ["model.tower.edge_direction=as_released", "model.compat.tower_dropout=true"] if compat else []
    else:
        given += [f"model/tower={tower}"]
    given += [f"model.template.system='{GRAPHCHAT}'", "model.compat.last_input_only=true"] if compat else []
    experiment = check_command_line(ExperimentConfig, "train", [*DEFAULTS, *given, *overrides])
    if base is None:
        return experiment
    # The folder is not written yet, so its path is put in after the check; what the original scales stands in its config.json.
    own = dataclasses.replace(experiment.model.llm, path=str(base.absolute()), revision=None, config_overrides={})
    return dataclasses.replace(experiment, model=dataclasses.replace(experiment.model, llm=own))


def _llm_facts(
    source: TensorFiles,
    layout: Layout,
    llm: Any,
    own: Base | None,
    parts: dict[str, dict[str, Tensor]],
    vocabulary: int | None,
    card: dict[str, Any] | None,
    written: bool,
) -> dict[str, Any]:
    """What the checkpoint fits: of the language model in the source, else of the one that is named, as far as it is here.

    Raises:
        CheckpointError: the one that is named is another one.
    """
    hidden = parts["graph/projector"]["linear.weight"].shape[0]
    facts: dict[str, Any] = {"type": "llama", "hidden_size": hidden, "vocabulary": vocabulary, "fingerprint": None}
    if own is not None:
        facts["fingerprint"] = own.fingerprint(bool((card or {}).get("tie_word_embeddings", False)))
    there = None if written else base_facts(llm)
    if there is None:
        return facts
    for what in ("hidden_size", "vocabulary"):
        if facts[what] is not None and facts[what] != there[what]:
            raise CheckpointError(f"{source.path} was made for a language model of {what} {facts[what]}; '{llm.path}' has {there[what]}.")
    if facts["fingerprint"] is not None and facts["fingerprint"] != there["fingerprint"]:
        raise CheckpointError(
            f"The language model in {source.path} is not '{llm.path}' (fingerprints {facts['fingerprint']} and {there['fingerprint']}); "
            "write it to a folder of its own with --base FOLDER."
        )
    return there
