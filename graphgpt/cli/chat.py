"""``graphgpt chat``: talk to a trained model about the nodes of a graph, about pictures, or about anything."""

import argparse
import contextlib
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphgpt.errors import GraphGPTError, amount, nearest
from graphgpt.registry import add_plugins_option

if TYPE_CHECKING:
    from graphgpt.assistant.assistant import Assistant
    from graphgpt.assistant.conversation import Conversation
    from graphgpt.assistant.graph_assistant import Classification, Connection, GraphAssistant, Node, NodeConversation


def add_parser(commands: Any) -> None:
    """Add ``chat`` to the sub-commands; the parsed options hold what to call as ``run(options)``."""
    chat = commands.add_parser("chat", help="talk to a trained model about the nodes of a graph, or about pictures")
    chat.add_argument("checkpoint", type=Path, help="run or checkpoint folder; latest is the newest in runs/")
    chat.add_argument("--graph", metavar="FOLDER", type=Path, help="graph folder; the checkpoint's own graph unless given")
    chat.add_argument("--node", metavar="N", help="number or id of the node to begin with")
    chat.add_argument("--system", metavar="TEXT", help="system message; that of the checkpoint's template unless given")
    chat.add_argument("--max-new-tokens", metavar="K", type=int, default=256, help="longest answer (256)")
    chat.add_argument("--temperature", metavar="T", type=float, default=0.0, help="0 always takes the likeliest token (0)")
    chat.add_argument("--device", help="such as cuda:1 or cpu; the accelerator that is there unless given")
    add_plugins_option(chat)
    chat.set_defaults(run=run_chat)


def run_chat(options: argparse.Namespace) -> None:
    """``graphgpt chat``.

    Raises:
        GraphGPTError: the checkpoint, the graph or the node cannot be used.
    """
    from graphgpt.assistant.assistant import Assistant, model_config
    from graphgpt.assistant.graph_assistant import GraphAssistant
    from graphgpt.checkpoints.folder import checkpoint_experiment, find_checkpoint, named_checkpoint

    folder = named_checkpoint(options.checkpoint)
    written = {"max_new_tokens": options.max_new_tokens, "temperature": options.temperature}
    if "graph" in (reads := model_config(find_checkpoint(folder), checkpoint_experiment(folder)).by_modality):
        graph = GraphAssistant.from_pretrained(folder, options.graph, device=options.device)
        chat: Chat = GraphChat(graph, options.system, **written)
        chat.begin(options.node)
    elif given := [f"--{name}" for name in ("graph", "node") if getattr(options, name) is not None]:
        raise GraphGPTError(f"{given[0]}: {folder} reads {', '.join(reads) or 'words alone'}, no graph; leave it out.")
    else:
        chat = Chat(Assistant.from_pretrained(folder, device=options.device), options.system, **written)
        chat.begin()
    print("Ask anything; /help lists the commands, /quit leaves.")
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        for line in typed():
            chat.take(line)


def typed() -> Iterator[str]:
    """Lines from the terminal, with editing and history, or from a pipe, until they end or Ctrl-C."""
    if not sys.stdin.isatty():
        yield from sys.stdin
        return
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  # makes input() know the arrow keys
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while True:
            yield input("\n> ")


class Chat:
    """What a chat's lines do: those with a slash are commands, others are questions.

    Args:
        assistant: To talk to.
        system: System message of all conversations.
        options: ``max_new_tokens`` and ``temperature`` of answers.
    """

    def __init__(self, assistant: "Assistant", system: str | None = None, **options: Any) -> None:
        self.assistant = assistant
        self.system = system
        self.options = options
        self.talk: Conversation = assistant.conversation(system=system)
        #: For the next question.
        self.images: list[str] = []
        #: Name, what stands after it, what it does.
        self.commands: dict[str, tuple[str, str, Callable[..., None]]] = {
            **(
                {"/image": ("FILE", "show it a picture with the next question", self.image)}
                if "image" in assistant.model.modalities
                else {}
            ),
            "/new": ("", "forget what was said", self.new),
            "/prompt": ("", "exactly what the model read last", self.prompt),
            "/help": ("", "this list", self.help),
            "/quit": ("", "leave", self.quit),
        }

    def take(self, line: str) -> None:
        """Do what a line says; a mistake in it is said in words, and nothing else happens.

        Raises:
            EOFError: it says to leave.
        """
        line = line.strip()
        try:
            if line.startswith("/"):
                self._command(line)
            elif line:
                self._answer(line)
        except GraphGPTError as error:
            print(error)

    def begin(self, about: str | None = None) -> None:
        """Begin a conversation and say what it is about."""
        self.talk, self.images = self.assistant.conversation(system=self.system), []
        if "image" in self.assistant.model.modalities:
            print("No picture is shown: /image FILE shows one.")

    def image(self, file: str) -> None:
        picture = self.assistant.picture(file)
        self.images.append(file)
        width, height = picture.load().size
        print(f"{file}, {width} x {height}, goes with the next question.")

    def new(self) -> None:
        self.begin()

    def prompt(self) -> None:
        print(self.talk.prompt())

    def help(self) -> None:
        for name, (rest, what, _) in self.commands.items():
            print(f"{name + ' ' + rest:16} {what}")

    def quit(self) -> None:
        raise EOFError

    def _command(self, line: str) -> None:
        try:
            name, *rest = shlex.split(line)
        except ValueError as error:
            raise GraphGPTError(f"'{line}' cannot be read: {str(error).lower()}.") from error
        if name not in self.commands:
            raise GraphGPTError(f"There is no command '{name}'. {nearest(name, self.commands)}")
        after, _, act = self.commands[name]
        wanted = after.split()
        if not len([word for word in wanted if not word.startswith("[")]) <= len(rest) <= len(wanted):
            raise GraphGPTError(f"{name} is followed by {after or 'nothing'}; found '{' '.join(rest)}'.")
        act(*rest)

    def _answer(self, question: str) -> None:
        """Print the answer as it is written; Ctrl-C stops it, and what was said stays said."""
        pieces = self.talk.ask(question, images=self.images, stream=True, **self.options)
        self.images = []
        said = False
        with contextlib.suppress(KeyboardInterrupt), contextlib.closing(pieces):
            for piece in pieces:
                print(piece, end="", flush=True)
                said = True
        print("" if said else "(The model says nothing.)")


class GraphChat(Chat):
    """A chat about the nodes of a graph."""

    assistant: "GraphAssistant"
    talk: "NodeConversation"

    def __init__(self, assistant: "GraphAssistant", system: str | None = None, **options: Any) -> None:
        super().__init__(assistant, system, **options)
        self.commands = {
            "/node": ("N", "talk about a node, by number or id (id:35 where ids are numbers)", self.begin),
            "/graph": ("FOLDER", "go to another graph", self.graph),
            "/link": ("A B", "how likely two nodes are connected", self.link),
            "/classify": ("[N]", "the likeliest classes of the node, or of another", self.classify),
            **self.commands,
        }

    def begin(self, about: str | None = None) -> None:
        """Begin a conversation about a node, or about none, and say what it is about."""
        self._begin(None if about is None else self._named(about))

    def _begin(self, node: "Node | None") -> None:
        self.talk, self.images = self.assistant.conversation(node, system=self.system), []
        graph = self.assistant.graph
        print(f"Graph {graph.card['name']}: {amount(graph.num_nodes, 'node')}, {amount(graph.num_edges, 'edge')}.")
        if self.talk.node is None:
            print("No node is chosen, so the model sees no graph: /node 0 chooses one.")
        else:
            print(f"Node {self.talk.node} ({graph.ids[self.talk.node].as_py()}): {graph.title(self.talk.node)}")

    def graph(self, folder: str) -> None:
        self.assistant = self.assistant.with_graph(folder)
        self.begin()

    def link(self, first: str, second: str) -> None:
        chance = self.assistant.link(self._named(first), self._named(second))
        print(f"P(connected) = {chance:.3f}{_aside(chance)}")

    def classify(self, name: str | None = None) -> None:
        node = self.talk.node if name is None else self._named(name)
        if node is None:
            raise GraphGPTError("/classify: no node is chosen; /classify N asks about one.")
        found = self.assistant.classify(node)
        for answer, chance in list(found.probabilities.items())[:5]:
            print(f"{chance:6.1%}  {answer}")
        if aside := _aside(found):
            print(aside.strip())

    def new(self) -> None:
        self._begin(self.talk.node)

    def _named(self, name: str) -> "Node":
        """Digits are a node's number, or where there is no such number its id; what follows ``id:`` is an id in any case."""
        if name.startswith("id:") or not name.isdecimal():
            return name.removeprefix("id:")
        if int(name) >= self.assistant.graph.num_nodes:
            with contextlib.suppress(GraphGPTError):
                return self.assistant.number(name)
        return int(name)


def _aside(found: "Classification | Connection") -> str:
    """What is to be known about an answer, in brackets."""
    known = [found.remark] if found.remark else ["the model was trained on this answer"] if found.trained_on else []
    return "".join(f" ({sentence})" for sentence in known)
