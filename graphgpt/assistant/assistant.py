"""A trained model, called from Python: free questions, with pictures or without, and how likely answers are."""

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, overload

import torch

from graphgpt.assistant.conversation import Answer, Conversation
from graphgpt.checkpoints.folder import checkpoint_experiment, find_checkpoint, load_checkpoint, read_manifest
from graphgpt.checkpoints.trained import Trained, read_trained
from graphgpt.errors import CheckpointError, ConfigError, DataError
from graphgpt.images.picture import ImageInput
from graphgpt.machine.installation import typed
from graphgpt.models.answering import score
from graphgpt.models.multimodal_llm import MultimodalLLM
from graphgpt.models.streaming import write_answer
from graphgpt.prompts.facts import TaskFacts
from graphgpt.prompts.instruction import Instruction, Message
from graphgpt.prompts.processor import Example
from graphgpt.registry import MODELS, Registry, load_plugins
from graphgpt.schema import parse


class Assistant:
    """A trained model: ask anything, about pictures or about nothing but words.

    It may be called from several threads, which take turns at the model; a :class:`Conversation` belongs to one of them.

    Args:
        model: In eval mode, on the device where it is to run.
        trained: What the model was trained on; None where that is not known.
    """

    def __init__(self, model: MultimodalLLM, *, trained: Trained | None = None) -> None:
        self.model = model
        self.trained = trained
        self.processor = model.processor
        # Not for the model alone: tokenizers keep settings that change from call to call.
        self._lock = threading.RLock()

    @classmethod
    def from_pretrained(cls, checkpoint: str | Path, *, device: str | None = None, plugins: Iterable[str] = ()) -> Self:
        """Load a checkpoint.

        Args:
            checkpoint: Run or checkpoint folder.
            device: Such as ``cuda:1`` or ``cpu``; None is the accelerator that is there, else the processor.
            plugins: Modules to import for classes of your own. Those that the checkpoint's config names have to be among them.

        Raises:
            GraphGPTError: the checkpoint asks for a module that ``plugins`` does not name, or one cannot be imported.
            CheckpointError: the folder is incomplete or damaged, or was made for another language model.
            ConfigError: something that the checkpoint's config names is not there.
        """
        load_plugins(plugins)
        folder = find_checkpoint(checkpoint)
        data = read_manifest(folder).get("data", {})
        width = next((part["features"] for part in data.get("parts", {"": data}).values() if "features" in part), None)
        facts = TaskFacts(task="", widths={} if width is None else {"graph": width})
        return cls(loaded_model(folder, model_config(folder, checkpoint_experiment(folder)), facts, device), trained=read_trained(folder))

    def answer(self, messages: Sequence[Message], *, max_new_tokens: int = 256, temperature: float = 0.0, seed: int = 0) -> Answer:
        """The next turn of a conversation, piece by piece; nothing of it is kept.

        Args:
            messages: What was said, a user's turn last.
            max_new_tokens: The answer is cut after so many tokens.
            temperature: 0 takes the likeliest token each time; above that, tokens are drawn.
            seed: Of the draw.

        Raises:
            DataError: the conversation is longer than ``model.max_length``, or holds an input that the model does not read.
        """
        yield from self.written(self.read(messages), max_new_tokens, temperature, seed)

    def score(self, messages: Sequence[Message], candidates: Sequence[str]) -> list[float]:
        """Probability of every candidate as the next turn of a conversation, among these; they sum to 1.

        Raises:
            DataError: as :meth:`answer`.
        """
        return self._among(self.read(messages), candidates)

    @overload
    def ask(self, question: str, *, images: Sequence[str | Path] = (), stream: Literal[False] = False, **options: Any) -> str: ...

    @overload
    def ask(self, question: str, *, images: Sequence[str | Path] = (), stream: Literal[True], **options: Any) -> Answer: ...

    def ask(self, question: str, *, images: Sequence[str | Path] = (), stream: bool = False, **options: Any) -> str | Answer:
        """Ask once; a :meth:`conversation` remembers.

        Args:
            question: As for :meth:`Conversation.ask`, like the rest.
            images: Files of pictures.
            stream: Whether to return the pieces of the answer as they are written.
            options: ``max_new_tokens``, ``temperature``, ``seed``.
        """
        talk = self.conversation()
        return talk.ask(question, images=images, stream=True, **options) if stream else talk.ask(question, images=images, **options)

    def conversation(self, *, system: str | None = None) -> Conversation:
        """A conversation about nothing in particular.

        Args:
            system: System message; None takes that of the checkpoint's template.
        """
        return Conversation(self, system)

    def picture(self, path: str | Path) -> ImageInput:
        """A picture as a message holds it.

        Raises:
            DataError: the model reads none, or the file cannot be read.
        """
        if "image" not in self.model.modalities:
            reads = ", ".join(self.model.modalities) or "words alone"
            raise DataError(f"images: the model reads {reads}, no pictures; train one that does with model=image.")
        picture = ImageInput(path=Path(path).expanduser())
        picture.load()  # what is wrong with it is said before anything is written
        return picture

    def read(self, messages: Sequence[Message]) -> Example:
        """A conversation as the model reads it.

        Raises:
            DataError: as :meth:`answer`.
        """
        with self._lock:
            return self.processor.prompt(Instruction(id="conversation", messages=tuple(messages)))

    def written(self, prompt: Example, max_new_tokens: int, temperature: float, seed: int) -> Iterator[str]:
        """The pieces of an answer to what was read."""
        return write_answer(self.model, self.processor, prompt, max_new_tokens, temperature=temperature, seed=seed, turn=self._lock)

    def shown(self, prompt: Example) -> str:
        """A tokenised prompt as text, with ``<graph: k tokens>`` for graph tokens."""
        shown, done = "", 0
        with self._lock:
            for item, (start, end) in zip(prompt.inputs, prompt.spans, strict=True):
                shown += self._decode(prompt.ids[done:start]) + item.shown
                done = end
            return shown + self._decode(prompt.ids[done:])

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self.processor.tokenizer.decode([token for token in ids if token >= 0], skip_special_tokens=False))

    def _among(self, prompt: Example, candidates: Sequence[str]) -> list[float]:
        with self._lock:
            scores = score(self.model, [prompt], [self.processor.answer(name) for name in candidates])
        found: list[float] = scores[0].softmax(dim=0).tolist()
        return found


def model_config(folder: Path, experiment: Mapping[str, Any]) -> Any:
    """The typed config of a checkpoint's model, with which one can talk.

    Args:
        folder: Of the checkpoint.
        experiment: Its settings.

    Raises:
        CheckpointError: one cannot.
        ConfigError: something that it names is not there.
    """
    config = typed_config(MODELS, experiment["model"], "model")
    if not issubclass(MODELS.get(config.name), MultimodalLLM):
        raise CheckpointError(
            f"{folder} is a '{config.name}', with which one cannot talk; score it: {typed('evaluate', f'checkpoint={folder}')}."
        )
    return config


def loaded_model(folder: Path, config: Any, facts: TaskFacts, device: str | None) -> MultimodalLLM:
    """A checkpoint's model with its weights, in eval mode on a device."""
    # All that is drawn here is overwritten: to the caller's random numbers it never happened.
    with torch.random.fork_rng(devices=[]):
        model: MultimodalLLM = MODELS.get(config.name).build(config, facts)
    load_checkpoint(model, folder)
    place = torch.device(device) if device else torch.accelerator.current_accelerator(check_available=True)
    return model.eval().to(place or "cpu")


def typed_config(registry: Registry[Any], node: dict[str, Any], key: str) -> Any:
    """The typed config of a registered thing, from a part of a config file.

    Raises:
        ConfigError: all its problems.
    """
    cls = registry.get(node["name"])
    problems: list[str] = []
    config = parse(cls.Config, node, problems, key)
    problems += [] if problems else cls.problems(config)
    if problems:
        raise ConfigError(problems)
    return config
