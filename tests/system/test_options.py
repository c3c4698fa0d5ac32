"""Options declared once: what a command line becomes, and how its mistakes are told."""

import dataclasses

import pytest

from dsrs_jax.system.errors import UserError
from dsrs_jax.system.options import group, option, parse, spelled, without


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

    def __post_init__(self) -> None:
        if self.corners < 0:
            raise UserError(f"--corners must not be negative, got {self.corners}")


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


def read(*words: str) -> Settings:
    return parse(Settings, words, program="thing", description="Makes a thing.")


def test_what_is_not_given_has_the_dataclass_s_default() -> None:
    assert read("here", "--name", "x") == Settings(place="here", name="x")


def test_every_type_is_read() -> None:
    found = read(
        "--part", "1.5", "--loud", "here", "--part", "-2", "--word", "c", "--size", "1e-3",
        "-n", "x", "--deep-blue", "--red", "0.25", "--corners", "5", "--kind", "tall",
        "--seldom", "7",
    )  # fmt: skip
    assert found == Settings(
        place="here", seldom=7, colour=Colour(0.25, True), shape=Shape(5, "tall"), size=1e-3,
        part=(1.5, -2.0), word=("c",), name="x", loud=True,
    )  # fmt: skip


def test_a_group_that_was_given_in_part_keeps_its_other_defaults() -> None:
    assert read("here", "--name", "x", "--deep-blue").colour == Colour(0.5, True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["here"], "the following arguments are required: --name/-n"),
        (["--name", "x"], "the following arguments are required: PLACE"),
        (["here", "--name", "x", "--seldom", "1.5"], "argument --seldom: invalid int value: '1.5'"),
        (["here", "--name", "x", "--part", "many"], "argument --part: invalid float value: 'many'"),
        (["here", "--name", "x", "--kind", "round"], "argument --kind: invalid choice: 'round'"),
        (["here", "--name", "x", "--colour", "red"], "unrecognized arguments: --colour red"),
        (["here", "--name", "x", "there"], "unrecognized arguments: there"),
        (["here", "--name", "x", "--sel", "1"], "unrecognized arguments: --sel 1"),
        (["here", "--name", "x", "--loud=yes"], "argument --loud: ignored explicit argument"),
        (["here", "--name"], "argument --name/-n: expected one argument"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        read(*words)
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1
    assert printed.err.startswith(f"thing: {message}")
    assert printed.err.endswith(" (see --help)\n")


def test_what_a_group_refuses_is_a_user_error() -> None:
    with pytest.raises(UserError, match="--corners must not be negative, got -1"):
        read("here", "--name", "x", "--corners", "-1")


def test_help_lists_the_options_that_are_often_given_first(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as ended:
        read("--help")
    assert not ended.value.code
    text = capsys.readouterr().out
    assert text.startswith("usage: thing PLACE [options]\n")
    assert "Makes a thing." in text
    listed = text.partition("most used:")[2]
    often = ["PLACE", "--corners C", "--size", "--loud", "--help, -h"]
    # What is alone in its group needs no title: --kind.
    rest = ["more:", "--seldom", "--kind", "--part", "--word", "--name", "colour of the thing:"]
    rest += ["--red", "--deep-blue"]
    places = [listed.index(word) for word in (*often, *rest)]
    assert places == sorted(places)
    assert "hardly ever given (1)" in listed
    assert all(len(line) <= 80 for line in text.splitlines())


def test_every_choice_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    @dataclasses.dataclass(frozen=True)
    class Many:
        """Many."""

        planet: str = option(
            "earth", "which one", choices=("mercury", "venus", "earth", "mars", "jupiter")
        )

    with pytest.raises(SystemExit):
        parse(Many, ["--help"], program="many", description="")
    printed = " ".join(capsys.readouterr().out.split())
    assert "which one: mercury, venus, earth, mars, jupiter (earth)" in printed


def test_words_without_one_group_keep_their_order() -> None:
    words = ["here", "--red", "0.25", "--name", "x", "--deep-blue", "--part", "1", "--red=0.5"]
    assert without(Colour, words) == ["here", "--name", "x", "--part", "1"]
    assert without(Shape, words) == words
    # What is left is a command line that gives the same but for the group.
    assert read(*without(Colour, words)) == dataclasses.replace(read(*words), colour=Colour())


def test_a_field_is_spelled_with_hyphens() -> None:
    assert spelled("grid_unit") == "--grid-unit"
