"""Options of benchmarks: numbers, lists and text, and what is left to the command that they call."""

from __future__ import annotations

import dataclasses

import pytest

from benchmarks.options import read_all, read_own
from worldmodel.core.errors import UserError


@dataclasses.dataclass(frozen=True)
class Own:
    n: int = 3
    names: tuple[str, ...] = ("a",)
    sizes: tuple[float, ...] = ()
    seed: int | None = None
    path: str | None = None

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError("n: at least 1")


def test_own_options_are_told_from_others() -> None:
    arguments = ["env=push", "n=7", "manifest.n=3", "names=b,c", "sizes=[1,2.5]", "seed=null", "path=3", "-x"]
    own, others = read_own(Own, arguments)
    assert own == Own(7, ("b", "c"), (1, 2.5), None, "3") and others == ["env=push", "manifest.n=3", "-x"]
    assert read_own(Own, ["names=[b]", "sizes=40"])[0] == Own(names=("b",), sizes=(40,))
    assert read_own(Own, ["names=on,1", "sizes=1e-3, 2"])[0] == Own(names=("on", "1"), sizes=(1e-3, 2))
    assert read_own(Own, []) == (Own(), []) and read_own(Own, ["names=[]"])[0] == Own(names=())


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("n=many", "benchmark option n is 'many': expected a whole number"),
        ("n=0", "n: at least 1"),
        ("n=", "n is None"),
        ("sizes=1,a", "option 'sizes=1,a' cannot be read: expected numbers"),
        ("n=[", r"option 'n=\[' cannot be read: expected numbers"),
        ("names=[a", r"option 'names=\[a' cannot be read: expected for example names=\[first,second\]"),
        ("nmes=a", "unknown option 'nmes': choose from .*did you mean names"),
    ],
)
def test_mistakes_get_one_line(argument: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read_all(Own, [argument])
    assert "\n" not in str(caught.value)
