"""Options declared once: what a command line becomes, and how its mistakes are reported."""

import dataclasses

import pytest

from dsrs_jax.system.options import group, option, parse, without


@dataclasses.dataclass(frozen=True)
class Colour:
    """Colour of the thing."""

    red: float = option(0.5, "share of red")
    deep_blue: bool = option(False, "whether it is deep")


@dataclasses.dataclass(frozen=True)
class Shape:
    """Shape: round or not."""

    corners: int = option(4, "how many", metavar="C", often=True)
    kind: str = option("flat", "which kind", choices=("flat", "tall"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Thing."""

    place: str = option(help="where", metavar="PLACE", positional=True)
    seldom: int = option(1, "hardly ever given")
    colour: Colour = group(Colour)
    shape: Shape = group(Shape)
    size: float | None = option(None, "of it", often=True)
    part: tuple[float, ...] = option((), "repeatable")
    word: tuple[str, ...] = option(("a", "b"), "repeatable")
    name: str = option(help="must be given", flags=("--name", "-n"))
    loud: bool = option(False, "a flag", often=True)


def read(words: str) -> Settings:
    return parse(Settings, words.split(), program="thing", description="Makes a thing.")


def test_every_type_is_read_and_what_is_not_given_has_its_default() -> None:
    assert read("here --name x") == Settings(place="here", name="x")
    assert read("here --name x --deep-blue").colour == Colour(0.5, True)
    found = read(
        "--part 1.5 --loud here --part -2 --word c --size 1e-3 -n x --deep-blue --red 0.25 "
        "--corners 5 --kind tall --seldom 7"
    )
    groups = {"colour": Colour(0.25, True), "shape": Shape(5, "tall")}
    values = {"size": 1e-3, "part": (1.5, -2.0), "word": ("c",), "loud": True}
    assert found == Settings(place="here", seldom=7, name="x", **groups, **values)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("here", "the following arguments are required: --name/-n"),
        ("--name x", "the following arguments are required: PLACE"),
        ("here --name x --seldom 1.5", "argument --seldom: invalid int value: '1.5'"),
        ("here --name x --part many", "argument --part: invalid float value: 'many'"),
        ("here --name x --kind round", "argument --kind: invalid choice: 'round'"),
        ("here --name x there", "unrecognized arguments: there"),
        ("here --name x --sel 1", "unrecognized arguments: --sel 1"),
        ("here --name x --loud=yes", "argument --loud: ignored explicit argument"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(words, message, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        read(words)
    assert ended.value.code == 2
    out, error = capsys.readouterr()
    assert out == "" and error.count("\n") == 1
    assert error.startswith(f"thing: {message}") and error.endswith(" (see --help)\n")


def test_help_lists_first_what_is_often_given_with_defaults_and_choices(capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        read("--help")
    assert not ended.value.code
    text = " ".join(capsys.readouterr().out.split())
    assert text.startswith("usage: thing PLACE [options] Makes a thing.")
    # What is alone in its group needs no title: --kind.
    order = ["PLACE", "--corners C", "--size", "--loud", "more:", "hardly ever given (1)"]
    order += ["which kind: flat, tall (flat)", "--part", "colour of the thing:", "--red"]
    places = [text.index(words, 30) for words in order]
    assert places == sorted(places)


def test_words_without_one_group_keep_their_order() -> None:
    words = "here --red 0.25 --name x --deep-blue --part 1 --red=0.5"
    assert without(Colour, words.split()) == ["here", "--name", "x", "--part", "1"]
    assert without(Shape, words.split()) == words.split()
