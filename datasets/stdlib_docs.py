"""The standard library of the user's own Python as a graph: what it documents, and how its parts refer to each other."""

import ast
import platform
import sys
import sysconfig
import warnings
from collections.abc import Container, Iterator
from pathlib import Path

import numpy as np
from pydantic import Field

from graphgpt.errors import DataError
from graphgpt.files.atomic import file_sha256, fingerprint
from graphgpt.graphs.dataset import DatasetConfig, GraphDataset
from graphgpt.graphs.graph import TextAttributedGraph, build_graph
from graphgpt.registry import DATASETS
from graphgpt.schema import configclass

#: Chapters of the Library Reference, in its order, with the top-level modules that have Python sources in CPython 3.11 to 3.13.
#: A private module stands in the chapter of the module that it implements.
CHAPTERS = {
    "Text Processing Services": "difflib re rlcompleter sre_compile sre_constants sre_parse string stringprep textwrap",
    "Binary Data Services": "codecs encodings struct",
    "Data Types": (
        "_collections_abc _pydatetime _weakrefset bisect calendar collections copy datetime enum graphlib heapq pprint reprlib types "
        "weakref zoneinfo"
    ),
    "Numeric and Mathematical Modules": "_pydecimal _pylong decimal fractions numbers random statistics",
    "Functional Programming Modules": "functools operator",
    "File and Directory Access": "filecmp fileinput fnmatch genericpath glob linecache ntpath pathlib posixpath shutil stat tempfile",
    "Data Persistence": "_compat_pickle copyreg dbm pickle shelve sqlite3",
    "Data Compression and Archiving": "_compression bz2 gzip lzma tarfile zipfile",
    "File Formats": "configparser csv netrc plistlib tomllib",
    "Cryptographic Services": "hashlib hmac secrets",
    "Generic Operating System Services": "_pyio _strptime argparse ctypes curses getopt getpass io logging os platform",
    "Concurrent Execution": "_bootsubprocess _threading_local concurrent contextvars multiprocessing queue sched subprocess threading",
    "Networking and Interprocess Communication": "asyncio selectors signal socket ssl",
    "Internet Data Handling": "base64 email json mailbox mimetypes quopri",
    "Structured Markup Processing Tools": "_markupbase html xml",
    "Internet Protocols and Support": (
        "ftplib http imaplib ipaddress nturl2path poplib smtplib socketserver urllib uuid webbrowser wsgiref xmlrpc"
    ),
    "Multimedia Services": "colorsys wave",
    "Internationalization": "gettext locale",
    "Program Frameworks": "cmd shlex turtle",
    "Graphical User Interfaces with Tk": "tkinter",
    "Development Tools": "doctest pydoc pydoc_data typing unittest",
    "Debugging and Profiling": "bdb cProfile pdb profile pstats timeit trace tracemalloc",
    "Software Packaging and Distribution": "distutils ensurepip venv zipapp",
    "Python Runtime Services": (
        "__future__ _aix_support _osx_support _py_abc _sitebuiltins abc contextlib dataclasses inspect site sysconfig traceback warnings"
    ),
    "Custom Python Interpreters": "code codeop",
    "Importing Modules": "importlib modulefinder pkgutil runpy zipimport",
    "Python Language Services": (
        "_opcode_metadata ast compileall dis keyword opcode pickletools py_compile pyclbr symtable tabnanny token tokenize"
    ),
    "Unix Specific Services": "pty tty",
    "Superseded Modules": (
        "aifc asynchat asyncore cgi cgitb chunk crypt imghdr imp mailcap nntplib optparse pipes smtpd sndhdr sunau telnetlib uu xdrlib"
    ),
}
CHAPTER_OF = {module: chapter for chapter, modules in CHAPTERS.items() for module in modules.split()}


@configclass
class StdlibDocsConfig(DatasetConfig):
    """The documented modules, classes and functions of a Python standard library."""

    min_words: int = Field(default=4, ge=1)
    """A definition is a node when its docstring has at least so many words."""
    library: str | None = None
    """Folder of another standard library, such as ``lib/python3.12`` of some installation; left out: this Python's own."""


def _library(config: StdlibDocsConfig) -> Path:
    return Path(config.library or sysconfig.get_path("stdlib"))


@DATASETS.register("stdlib_docs")
class StdlibDocs(GraphDataset):
    """Modules, classes and functions with a docstring; the class of a node is the chapter that documents its top-level module.

    A title is the bare name (of a module: the dotted one), a body the docstring. Edges: a definition *contains* another,
    a class *inherits* from a class, a module *imports* a module or an object, and a body *refers to* a definition. All of
    it is read from the sources, nothing is imported. Where a definition is no node, its edges go to the nearest definition
    around it that is one. Modules that no chapter documents are not part of the graph, so that every node has a class; the
    card lists them.
    """

    Config = StdlibDocsConfig
    config: StdlibDocsConfig

    def __init__(self, config: StdlibDocsConfig) -> None:
        super().__init__(config)
        self.library = _library(config)

    @classmethod
    def problems(cls, config: StdlibDocsConfig) -> list[str]:
        found = super().problems(config)
        if not _library(config).is_dir():
            found.append(f"dataset.library={config.library} is not a folder: name the folder of a standard library that holds os.py.")
        return found

    def fingerprint(self) -> str:
        sources = {path.relative_to(self.library).as_posix(): file_sha256(path) for _, path in _sources(self.library)}
        python = [sys.implementation.name, *sys.version_info]
        return fingerprint(python, file_sha256(Path(__file__)), self.config.min_words, sources)

    def build(self) -> TextAttributedGraph:
        return build_stdlib(self.library, self.config.min_words)


def build_stdlib(library: Path, min_words: int = 4) -> TextAttributedGraph:
    """The graph of the standard library in a folder; see ``StdlibDocs``.

    Raises:
        DataError: the folder has no Python sources, or none with a docstring that is long enough.
    """
    sources = _sources(library)
    code = _Code()
    skipped = []
    for name, path in sources:
        try:
            with warnings.catch_warnings(action="ignore"):  # another version's sources may hold escapes that this one warns of
                tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError, RecursionError, MemoryError):  # bad syntax, encoding or null byte; nested too deeply
            skipped.append(path.relative_to(library).as_posix())
        else:
            code.read(tree, name, is_package=path.name == "__init__.py")

    nodes = sorted(name for name, doc in code.docs.items() if len(doc.split()) >= min_words)
    if not nodes:
        raise DataError(
            f"{library} holds {len(sources)} source files of the Python standard library and no docstring of {min_words} words "
            "(is it zipped, or compiled only?): set dataset.library to a folder that has the sources."
        )
    index = {name: i for i, name in enumerate(nodes)}
    edges: dict[str, set[tuple[int, int]]] = {"contains": set(), "inherits": set(), "imports": set(), "refers to": set()}
    for relation, a, b in code.relations():
        a, b = _documented(a, index), _documented(b, index)
        one_holds_the_other = f"{a}.".startswith(f"{b}.") or f"{b}.".startswith(f"{a}.")
        if a and b and a != b and (relation == "contains" or not one_holds_the_other):
            edges[relation].add((min(index[a], index[b]), max(index[a], index[b])))

    chapters = [CHAPTER_OF[name.partition(".")[0]] for name in nodes]
    class_names = [chapter for chapter in CHAPTERS if chapter in chapters]
    kinds = [code.kinds[name] for name in nodes]
    return build_graph(
        ids=nodes,
        titles=[name if kind == "module" else name.rpartition(".")[2] for name, kind in zip(nodes, kinds, strict=True)],
        bodies=[code.docs[name] for name in nodes],
        labels=[class_names.index(chapter) for chapter in chapters],
        class_names=class_names,
        edges=np.array(sorted(set().union(*edges.values())), dtype=np.int64),
        card={
            "name": "stdlib_docs",
            "python": platform.python_version(),
            "library": library.absolute().name,
            "min_words": min_words,
            "files": len(sources) - len(skipped),
            "files_skipped": skipped,
            "modules_left_out": _left_out(library),
            "nodes_of_kind": {kind: kinds.count(kind) for kind in ("module", "class", "function")},
            "edges_of_kind": {relation: len(pairs) for relation, pairs in edges.items()},
        },
    )


def _sources(library: Path) -> list[tuple[str, Path]]:
    """Dotted name and file of every module in the chapters, packages with all that is in them but tests, sorted."""
    found = {}
    for top in CHAPTER_OF:
        for path in (library / f"{top}.py", *(library / top).rglob("*.py")):
            *packages, stem = path.relative_to(library).with_suffix("").parts
            parts = packages if stem == "__init__" else [*packages, stem]
            if path.is_file() and not any(part in ("test", "tests") or part.endswith("_test") for part in parts):
                found[".".join(parts)] = path
    return sorted(found.items())


def _left_out(library: Path) -> list[str]:
    """Top-level modules that no chapter names, sorted."""
    names = {path.stem for path in library.glob("*.py")} | {path.parent.name for path in library.glob("*/__init__.py")}
    return sorted(name for name in names - CHAPTER_OF.keys() if name.isidentifier())


def _documented(name: str, nodes: Container[str]) -> str:
    """The definition itself where it is a node, else the nearest one around it that is, else empty."""
    while name and name not in nodes:
        name = _around(name)
    return name


def _around(name: str) -> str:
    """What a definition lies in: ``json.decoder`` for ``json.decoder.JSONDecoder``; empty for a top-level module."""
    return name.rpartition(".")[0]


def _dotted(node: ast.expr) -> str:
    """``a.b.c`` for such an expression, empty for any other."""
    if isinstance(node, ast.Attribute):
        value = _dotted(node.value)
        return value and f"{value}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


class _Code:
    """What sources define, bind and use. Definitions (modules, classes, functions) go by their dotted names.

    Attributes:
        kinds: ``module``, ``class`` or ``function`` of every definition.
        docs: Docstring of every definition, the first that is not empty where it is defined more than once.
        scopes: The names that a definition's body binds, each with what it may stand for, likeliest first; nothing for a variable.
        stars: The modules from which a body imports ``*``.
        bases: The base classes of a class, as written.
        imports: A module and what it imports.
        uses: A definition and a dotted name that its body uses, as written.
    """

    def __init__(self) -> None:
        self.kinds: dict[str, str] = {}
        self.docs: dict[str, str] = {}
        self.scopes: dict[str, dict[str, list[str]]] = {}
        self.stars: dict[str, list[str]] = {}
        self.bases: dict[str, list[str]] = {}
        self.imports: list[tuple[str, str]] = []
        self.uses: set[tuple[str, str]] = set()

    def read(self, tree: ast.Module, module: str, *, is_package: bool) -> None:
        """Take in the syntax tree of a module."""
        self._define(tree, module, "module")
        stack: list[tuple[ast.AST, str]] = [(tree, module)]  # a node and the definition whose body it is part of
        while stack:
            node, place = stack.pop()
            children = list(ast.iter_child_nodes(node))
            match node:
                case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                    name = f"{place}.{node.name}"
                    self._bind(place, node.name)
                    self.scopes[place][node.name].insert(0, name)
                    self._define(node, name, "class" if isinstance(node, ast.ClassDef) else "function")
                    if isinstance(node, ast.ClassDef):
                        bases = [_dotted(base.value if isinstance(base, ast.Subscript) else base) for base in node.bases]
                        self.bases.setdefault(name, []).extend(filter(None, bases))
                        children = [child for child in children if child not in node.bases]
                    elif self.kinds[place] == "class" and "staticmethod" not in map(_dotted, node.decorator_list):
                        for first in [*node.args.posonlyargs, *node.args.args][:1]:  # self or cls
                            self._bind(name, first.arg, place)
                    place = name
                case ast.Import():
                    for alias in node.names:
                        self.imports.append((module, alias.name))
                        top = alias.name.partition(".")[0]
                        self._bind(place, alias.asname or top, alias.name if alias.asname else top)
                case ast.ImportFrom():
                    package = module.split(".")[: len(module.split(".")) + is_package - node.level] if node.level else []
                    origin = ".".join([*package, *([node.module] if node.module else [])])
                    for alias in node.names:
                        if alias.name == "*":
                            self.imports.append((module, origin))
                            self.stars.setdefault(place, []).append(origin)
                        else:
                            self.imports.append((module, f"{origin}.{alias.name}"))
                            self._bind(place, alias.asname or alias.name, f"{origin}.{alias.name}")
                case ast.Attribute() if dotted := _dotted(node):
                    self.uses.add((place, dotted))
                    children = []
                case ast.Name(ctx=ast.Load()):
                    self.uses.add((place, node.id))
                case ast.Name(id=name) | ast.arg(arg=name) | ast.ExceptHandler(name=str(name)):
                    self._bind(place, name)
            stack += [(child, place) for child in reversed(children)]

    def _define(self, node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, name: str, kind: str) -> None:
        self.kinds.setdefault(name, kind)
        self.scopes.setdefault(name, {})
        self.docs[name] = self.docs.get(name) or ast.get_docstring(node) or ""

    def _bind(self, place: str, name: str, *meanings: str) -> None:
        self.scopes[place].setdefault(name, []).extend(meanings)

    def relations(self) -> Iterator[tuple[str, str, str]]:
        """Every relation between two definitions that the sources tell, some of them more than once."""
        for name in self.kinds:
            if "." in name:
                yield "contains", _around(name), name
        for name, bases in self.bases.items():
            for base in bases:
                if (found := self._find(_around(name), base, exact=True)) and self.kinds[found] == "class":
                    yield "inherits", name, found
        for module, imported in self.imports:
            if found := self._resolve(imported) or self._resolve(_around(imported)):
                yield "imports", module, found
        for user, used in self.uses:
            if found := self._find(user, used):
                yield "refers to", user, found

    def _find(self, place: str, written: str, *, exact: bool = False, seen: frozenset[str] = frozenset()) -> str:
        """The definition that a dotted name stands for in a body, or empty; unless ``exact``, the longest part that is one."""
        first, *rest = written.split(".")
        scope = place
        while self.kinds[scope] != "module" and (first not in self.scopes[scope] or (self.kinds[scope] == "class" and scope != place)):
            scope = _around(scope)  # a class body's names are not seen by the functions in it
        found = self._named(scope, first, seen)
        for part in rest:
            member = self._member(found, part, seen)
            if not member:
                return "" if exact else found
            found = member
        return found

    def _resolve(self, name: str, seen: frozenset[str] = frozenset()) -> str:
        """The definition behind an absolute dotted name, which may be one by import or inheritance, or empty."""
        if name in self.kinds or "." not in name:
            return name if name in self.kinds else ""
        return self._member(self._resolve(_around(name), seen), name.rpartition(".")[2], seen)

    def _member(self, owner: str, name: str, seen: frozenset[str]) -> str:
        """The definition that ``owner.name`` stands for from the outside, or empty: a function's names are its own."""
        if self.kinds.get(owner, "function") == "function":
            return ""
        return self._named(owner, name, seen)

    def _named(self, owner: str, name: str, seen: frozenset[str]) -> str:
        """The definition that a name bound in ``owner``, or come by way of ``*`` or a base class, stands for, or empty."""
        key = f"{owner}.{name}"
        if key in seen:  # modules that import from each other, a class with its own name for a base
            return ""
        seen |= {key}
        if name in self.scopes[owner]:
            return next(filter(None, (self._resolve(meaning, seen) for meaning in self.scopes[owner][name])), "")
        if self.kinds.get(key) == "module":
            return key
        parents = [self._resolve(star, seen) for star in self.stars.get(owner, ())]
        parents += [self._find(_around(owner), base, exact=True, seen=seen) for base in self.bases.get(owner, ())]
        return next(filter(None, (self._member(parent, name, seen) for parent in parents)), "")
