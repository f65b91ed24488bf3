"""How plain data become typed configs, and what is said about data that do not fit."""

import dataclasses
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from graphgpt.errors import GraphGPTError, nearest
from graphgpt.registry import Registry
from graphgpt.schema import GIVEN, MISSING, POSITIVE, ActsWith, Registered, configclass, declared_idle, idle_problems, parse

# Shapes for the test's own; the package is only where a look-up searches first.
SHAPES: Registry[Any] = Registry("shape", "graphgpt.prompts.templates")


@SHAPES.register("circle")
class Circle:
    @configclass
    class Config:
        name: str
        radius: float = Field(gt=0)

    @staticmethod
    def problems(config: Any) -> list[str]:
        return [f"shape.radius: {config.radius} is too large for the page."] if config.radius > 10 else []


@SHAPES.register("square")
class Square:
    @configclass
    class Config:
        name: str
        side: int = 1


@configclass
class Pen:
    """What draws."""

    width: float = Field(default=1.0, gt=0, le=5)
    """In millimetres."""
    colour: Literal["red", "green", "blue"] = "red"


@configclass
class Drawing:
    """A root with every kind of field."""

    title: str
    copies: int = Field(default=1, ge=1)
    pen: Pen = Pen()
    second_pen: Pen | None = None
    tags: list[str] = Field(default_factory=list)
    shape: Annotated[Any, Registered(SHAPES, "shape")] = Square.Config(name="square")


def read(**data: Any) -> Drawing:
    problems: list[str] = []
    drawing = parse(Drawing, data, problems)
    assert problems == []
    assert drawing is not None
    return drawing


def wrong(key: str = "", **data: Any) -> list[str]:
    problems: list[str] = []
    parse(Drawing, data, problems, key)
    assert problems
    return problems


def test_data_become_typed_objects() -> None:
    drawing = read(title="a", copies="3", pen={"width": 2}, tags=["x"], shape={"name": "circle", "radius": 4})
    assert drawing == Drawing(
        title="a", copies=3, pen=Pen(width=2.0), second_pen=None, tags=["x"], shape=Circle.Config(name="circle", radius=4.0)
    )
    assert isinstance(drawing.shape, Circle.Config)


def test_what_is_left_out_takes_its_default() -> None:
    assert read(title="a") == Drawing(title="a", copies=1, pen=Pen(width=1.0, colour="red"), shape=Square.Config(name="square", side=1))


def test_a_number_is_a_name_too() -> None:
    assert read(title=7).title == "7"


def test_a_config_does_not_change() -> None:
    drawing = read(title="a")
    with pytest.raises(dataclasses.FrozenInstanceError):
        drawing.title = "b"  # type: ignore[misc]


def test_a_config_survives_the_way_through_plain_data() -> None:
    drawing = read(title="a", second_pen={"colour": "blue"}, shape={"name": "circle", "radius": 4})
    assert read(**dataclasses.asdict(drawing)) == drawing


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({"titel": "b"}, "titel: unknown key. Did you mean 'title'?"),
        ({"zzz": 1}, "zzz: unknown key. Known: copies, pen, second_pen, shape, tags, title."),
        ({"pen": {"widht": 1}}, "pen.widht: unknown key. Did you mean 'pen.width'?"),
        ({"second_pen": {"widht": 1}}, "second_pen.widht: unknown key. Did you mean 'second_pen.width'?"),
        ({"shape": {"name": "circle", "radius": 1, "raduis": 2}}, "shape.raduis: unknown key. Did you mean 'shape.radius'?"),
        ({"title": MISSING}, "title: must be given (title=...)."),
        ({"copies": MISSING}, "copies: must be given (copies=...)."),
        ({"pen": {"width": MISSING}}, "pen.width: must be given (pen.width=...)."),
        ({"shape": {"name": "circle"}}, "shape.radius: must be given (shape.radius=...)."),
        ({"shape": {"name": "circle", "radius": MISSING}}, "shape.radius: must be given (shape.radius=...)."),
        ({"copies": 0}, "copies: 0 does not fit: input should be greater than or equal to 1."),
        ({"pen": {"width": 9}}, "pen.width: 9 does not fit: input should be less than or equal to 5."),
        ({"pen": {"width": float("nan")}}, "pen.width: nan does not fit: input should be a finite number."),
        ({"copies": 1.5}, "copies: 1.5 does not fit: input should be a valid integer, got a number with a fractional part."),
        ({"tags": "x"}, "tags: 'x' does not fit: input should be a valid list."),
        ({"tags": ["x", None]}, "tags.1: None does not fit: input should be a valid string."),
        ({"shape": {"name": "circel", "radius": 1}}, "shape.name: Unknown shape 'circel'. Did you mean 'circle'?"),
        ({"shape": {"name": "line"}}, "shape.name: Unknown shape 'line'. Known: circle, square."),
        ({"shape": None}, "shape: expected 'name' and the fields of one shape, found None. Known: circle, square."),
        ({"shape": {}}, "shape: expected 'name' and the fields of one shape, found {}. Known: circle, square."),
        ({"shape": {"name": "circle", "radius": 11}}, "shape.radius: 11.0 is too large for the page."),
        ({"shape": {"name": "circle", "radius": -1}}, "shape.radius: -1 does not fit: input should be greater than 0."),
    ],
)
def test_sentence(data: dict[str, Any], sentence: str) -> None:
    assert wrong(**({"title": "a"} | data)) == [sentence]


def test_a_word_that_is_not_one_of_several() -> None:
    [found] = wrong(title="a", pen={"colour": "gren"})
    assert found.startswith("pen.colour: 'gren' is not one of red, green, blue.")
    assert found.endswith("Did you mean 'green'?")


def test_a_missing_name_is_not_looked_up() -> None:
    problems = wrong(title="a", shape={"name": MISSING, "radius": 1})
    assert "shape.name: must be given (shape.name=...)." in problems


def test_keys_are_spelled_from_the_root() -> None:
    assert wrong("drawings.first", title="a", pen={"widht": 1}) == [
        "drawings.first.pen.widht: unknown key. Did you mean 'drawings.first.pen.width'?"
    ]
    assert wrong("drawings.first") == ["drawings.first.title: must be given (drawings.first.title=...)."]


def test_everything_wrong_is_found_at_once_and_said_once() -> None:
    found = wrong(copies=0, pen={"widht": 1, "colour": MISSING}, shape={"name": "circle", "raduis": 1}, tags="x")
    assert len(found) == len(set(found))
    assert sorted(sentence.partition(":")[0] for sentence in found) == sorted(
        ["title", "copies", "pen.widht", "pen.colour", "shape.raduis", "shape.radius", "tags"]
    )


def test_parse_adds_to_the_problems_there_are() -> None:
    problems = ["first."]
    assert parse(Drawing, {"copies": 0}, problems) is None
    assert problems[0] == "first."
    assert len(problems) == 3


def test_an_object_that_is_typed_already_stays() -> None:
    circle = Circle.Config(name="circle", radius=2)
    assert Drawing(title="a", shape=circle).shape is circle


def test_a_default_counts_nothing_where_the_file_says_it_must_be_given() -> None:
    problems: list[str] = []
    assert parse(Drawing, {"title": "a", "copies": MISSING}, problems) is None
    assert problems == ["copies: must be given (copies=...)."]


def test_a_class_without_config_or_with_a_taken_name_is_refused() -> None:
    registry: Registry[Any] = Registry("shape", "graphgpt.prompts.templates")
    registry.register("circle")(Circle)
    registry.register("circle")(Circle)  # the same one again, as when its module is loaded anew
    with pytest.raises(GraphGPTError, match=r"The shape 'circle' of .* is registered already, by .*Circle\."):
        registry.register("circle")(Square)
    with pytest.raises(GraphGPTError, match=r"The shape 'line' \(.*\) has no Config class\."):
        registry.register("line")(type("Line", (), {}))


def test_the_nearest_word_or_all_of_them() -> None:
    assert nearest("gren", ["red", "green"]) == "Did you mean 'green'?"
    assert nearest("gren", ["red", "green"], "pen.") == "Did you mean 'pen.green'?"
    assert nearest("zzz", ["red", "green"]) == "Known: green, red."
    assert nearest("zzz", []) == ""


# What acts only beside other values.

STARS: Registry[Any] = Registry("star", "graphgpt.prompts.templates")


@STARS.register("star")
class Star:
    @configclass
    class Config:
        name: str
        rays: int = 5
        inner: float = 1.0

    @staticmethod
    def idle(config: Any, drawing: Any) -> dict[str, str]:
        return {"shape.inner": "changes nothing, for a star of 3 rays has no inner corners.", "ink": "is dry."} if config.rays == 3 else {}


@configclass
class Line:
    kind: Literal["plain", "dashed", "dotted"] = "plain"
    gap: Annotated[float, ActsWith(kind=("dashed", "dotted"))] = Field(default=1.0, gt=0)
    repeat: int = 0
    angle: Annotated[int | None, ActsWith(repeat=POSITIVE, kind="dashed")] = None
    offset: int | None = None
    unit: Annotated[str, ActsWith(offset=GIVEN)] = "mm"


@configclass
class Sheet:
    fancy: bool = False
    line: Annotated[Line, ActsWith(fancy=True)] = Line()
    shape: Annotated[Any, Registered(STARS, "shape")] = Star.Config(name="star")
    ink: dict[str, int] = Field(default_factory=lambda: {"red": 1})


def idle(given: list[str], **data: Any) -> list[str]:
    problems: list[str] = []
    sheet = parse(Sheet, data, problems)
    assert problems == []
    return idle_problems(sheet, given, declared_idle(sheet))


@pytest.mark.parametrize(
    ("key", "data", "sentence"),
    [
        ("line.gap", {"gap": 2}, "line.gap=2.0: acts only with line.kind=dashed or dotted, and that is plain."),
        ("line.angle", {"kind": "dashed", "angle": 3}, "line.angle=3: acts only with line.repeat above 0, and that is 0."),
        ("line.angle", {"kind": "dotted", "angle": 3, "repeat": 1}, "line.angle=3: acts only with line.kind=dashed, and that is dotted."),
        ("line.unit", {"unit": "cm"}, "line.unit=cm: acts only with line.offset given, and that is null."),
        ("line", {"gap": 2}, "line.gap=2.0: acts only with line.kind=dashed or dotted, and that is plain."),
    ],
)
def test_a_value_that_cannot_act_beside_its_neighbours(key: str, data: dict[str, Any], sentence: str) -> None:
    assert idle([key], fancy=True, line=data) == [sentence]
    # Not given, it is a recipe's or a checkpoint's; and what is as by default says nothing.
    assert idle(["fancy"], fancy=True, line=data) == []
    assert idle([key], fancy=True) == []


def test_a_whole_node_and_what_a_class_declares() -> None:
    assert idle(["line.kind"], line={"kind": "dashed"}) == ["line.kind=dashed: acts only with fancy=true, and that is false."]
    star = {"name": "star", "rays": 3, "inner": 2}
    assert idle(["shape.inner", "ink.blue"], shape=star, ink={"red": 1, "blue": 2}) == [
        "shape.inner=2.0: changes nothing, for a star of 3 rays has no inner corners.",
        "ink.blue=2: is dry.",
    ]
    assert idle(["shape.inner"], shape=star | {"rays": 4}) == []


def test_conditions_are_data() -> None:
    marks = {name: [str(mark) for mark in info.metadata if isinstance(mark, ActsWith)] for name, info in Line.__pydantic_fields__.items()}
    assert {name: found for name, found in marks.items() if found} == {
        "gap": ["kind=dashed or dotted"],
        "angle": ["repeat above 0 and kind=dashed"],
        "unit": ["offset given"],
    }


def test_a_value_of_another_kind_is_quoted_in_part() -> None:
    """A list in place of a mapping has quotes within quotes, which no pattern over the sentence tells apart."""
    problems: list[str] = []
    given = [{f"point {i}": 'It\'s "so", ' * 20} for i in range(20)]
    parse(Circle.Config, {"name": "circle", "radius": given}, problems, "shape")
    [problem] = problems
    assert problem.startswith("shape.radius: [{'point 0': ") and problem.endswith(" does not fit: input should be a valid number.")
    assert len(problem) < 400
