"""The names that GraphGPT's authors gave to weights, and what a file with such names is."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from graphgpt.errors import CheckpointError, amount

Kind = Literal["tower", "projector", "full model"]

TOWER, PROJECTOR, EMBEDDINGS, HEAD = "model.graph_tower.", "model.graph_projector.", "model.embed_tokens.weight", "lm_head.weight"
CLIP = "gnn."
#: Added to the vocabulary in this order; our own model has rows for the last two, beside the base's matrix.
TOKENS = ("<g_patch>", "<g_start>", "<g_end>")

#: Fields of the tower's own config.json by ours.
TOWER_FIELDS = {
    "dim": "att_d_model",
    "output_dim": "gnn_output",
    "layers": "gt_layers",
    "heads": "head",
    "norm": "att_norm",
    "use_position": "if_pos",
}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What a source holds: its names by ours.

    Args:
        kind: What it is.
        prefix: What a trainer put before every name, such as Lightning's ``model.``.
        tower: By names in our tower.
        projector: By names in our projector.
        embeddings: The embedding matrix with the rows of the graph's tokens.
        base: The language model's own, by names in a plain Hugging Face model; ``embeddings`` and the head among them.
        ignored: Of no use here.
    """

    kind: Kind
    prefix: str
    tower: Mapping[str, str]
    projector: Mapping[str, str] = field(default_factory=dict)
    embeddings: str | None = None
    base: Mapping[str, str] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """What it is, for users."""
        if self.kind == "tower":
            left = f"; what else it has ({amount(len(self.ignored), 'tensor')}, its text tower) is left out" if self.ignored else ""
            return f"a released graph tower: {amount(len(self.tower), 'tensor')} {CLIP}*{left}"
        what = "a trainer's checkpoint of " if self.prefix else ""
        what += "a full GraphGPT model" if self.kind == "full model" else "a GraphGPT projector"
        parts = [f"{amount(len(self.projector), 'tensor')} of the projector"]
        parts += [f"{len(self.tower)} of the tower"] if self.tower else []
        parts += ["an embedding matrix"] if self.embeddings else []
        parts += [f"{len(self.base)} of the language model"] if self.base else []
        parts += [f"{len(self.ignored)} that are left out (such as {self.ignored[0]})"] if self.ignored else []
        return f"{what}: {', '.join(parts)}"


def recognise(names: Iterable[str], where: object) -> Layout:
    """What names of tensors say a source is.

    Raises:
        CheckpointError: nothing that GraphGPT's programs write; the message holds its first names and what was expected.
    """
    names = list(names)
    projector = [found for name in names if (found := re.fullmatch(r"(.*?)(?:model\.)?graph_projector\.(.+)", name))]
    if projector:
        return _with_projector(names, projector[0][1], {found[2]: found[0] for found in projector}, where)
    tower = {name.removeprefix(CLIP): name for name in names if name.startswith(CLIP)}
    if tower:
        return Layout(kind="tower", prefix="", tower=tower, ignored=tuple(name for name in names if not name.startswith(CLIP)))
    first = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "") if names else "none at all"
    raise CheckpointError(
        f"{where} holds nothing known: its tensors are {first}; expected gnn.* (a released tower) or "
        "model.graph_projector.* (a projector, a full model or a trainer's checkpoint)."
    )


def _with_projector(names: list[str], prefix: str, leaves: dict[str, str], where: object) -> Layout:
    if leaves.keys() != {"weight", "bias"}:
        raise CheckpointError(f"{where}: its projector has {', '.join(sorted(leaves))}; expected weight and bias of one linear layer.")
    own = {name.removeprefix(prefix): name for name in names if name.startswith(prefix)}
    tower = {name.removeprefix(TOWER): theirs for name, theirs in own.items() if name.startswith(TOWER)}
    embeddings = next((theirs for name, theirs in own.items() if re.search(r"(?:embed_tokens|embed_in|wte)\.weight$", name)), None)
    # The extractor keeps the embedding matrix beside the projector; a full model has layers.
    layers = any(name.startswith("model.layers.") for name in own)
    taken = {*tower.values(), *leaves.values()}
    base = {
        name: theirs
        for name, theirs in own.items()
        if layers and theirs not in taken and name.startswith(("model.", "lm_head.")) and not name.endswith("rotary_emb.inv_freq")
    }
    rest = [name for name in names if name not in taken and name not in base.values() and name != embeddings]
    kind: Kind = "full model" if layers else "projector"
    return Layout(
        kind=kind,
        prefix=prefix,
        tower=tower,
        projector={f"linear.{leaf}": theirs for leaf, theirs in leaves.items()},
        embeddings=embeddings,
        base=base,
        ignored=tuple(rest),
    )


def tower_fields(card: Mapping[str, Any] | None, shapes: Mapping[str, tuple[int, ...]], where: object) -> dict[str, Any]:
    """Fields of our tower's config from the tower's ``config.json``, or, without it, from shapes and the released number of heads.

    Raises:
        CheckpointError: it is a tower of another kind.
    """
    if card is not None:
        if card.get("gnn_type", "gt") != "gt":
            raise CheckpointError(
                f"{where}: its config.json says gnn_type '{card['gnn_type']}'; only 'gt', the graph transformer, can be read."
            )
        if missing := [theirs for theirs in TOWER_FIELDS.values() if theirs not in card]:
            raise CheckpointError(f"{where}: its config.json has no '{missing[0]}', which a tower's has.")
        return {ours: card[theirs] for ours, theirs in TOWER_FIELDS.items()}
    for name in ("W_P.weight", "inverW_P.weight"):
        if len(shapes.get(name, ())) != 2:
            raise CheckpointError(f"{where}: its tower has no matrix '{name}', so it is no graph transformer.")
    layers = {name.split(".")[1] for name in shapes if name.startswith("gtLayers.")}
    norm = any(name.endswith(".norm.weight") for name in shapes)
    return {
        "dim": shapes["W_P.weight"][0],
        "output_dim": shapes["inverW_P.weight"][0],
        "layers": len(layers),
        "heads": 8,
        "norm": norm,
        "use_position": False,
    }
