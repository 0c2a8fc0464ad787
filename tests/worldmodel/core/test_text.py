"""Text of others is shown without what a terminal acts upon, and addresses without what is secret."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text

from worldmodel.cli.command import fail
from worldmodel.cli.console import shown
from worldmodel.core.text import printable, without_secrets


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("push the block", "push the block"),
        ("Schiebe den Würfel 推", "Schiebe den Würfel 推"),
        ("a\n\tb\r\nc", "a b c"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07text", "text"),
        ("\x1b]8;;https://host\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x9b2Jgone", "gone"),
        ("\x1bcreset", "reset"),
        ("a\x00\x08\x7fb", "ab"),
        ("safe\u202egnp.exe", "safegnp.exe"),
        ("\ud800half", "half"),
    ],
)
def test_what_is_printable(text: str, wanted: str) -> None:
    assert printable(text) == wanted


def test_long_text_is_cut() -> None:
    assert len(printable("x" * 10**7)) < 2_100


@given(st.text())
def test_nothing_is_left_that_commands(text: str) -> None:
    assert not {unicodedata.category(letter) for letter in printable(text)} & {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
    assert Text.from_markup(shown(text)).plain.rstrip("\\") == printable(without_secrets(text)).rstrip("\\")


def test_markup_is_text() -> None:
    assert Text.from_markup(shown("[/] [bold]x[/bold]")).plain == "[/] [bold]x[/bold]"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("https://me:secret@host/data.zarr", "https://***@host/data.zarr"),
        ("https:/me:secret@host/data.zarr", "https:/***@host/data.zarr"),  # as `Path` makes it
        ("https://token@host:8080/a", "https://***@host:8080/a"),
        ("https://me:se@cret@host/a@b", "https://***@host/a@b"),
        ("s3://key:secret@bucket/a?X-Amz-Signature=secret#part", "s3://***@bucket/a?***"),
        ("one https://a:b@c/d and http://e:f@g", "one https://***@c/d and http://***@g"),
        ("data='https://a:b@c/d' does not fit", "data='https://***@c/d' does not fit"),
        ("https://host/data.zarr", "https://host/data.zarr"),
        ("me@host is no address, nor is C:/a@b, is it?", "me@host is no address, nor is C:/a@b, is it?"),
    ],
)
def test_addresses_without_what_is_secret(text: str, wanted: str) -> None:
    assert without_secrets(text) == wanted


def test_an_error_tells_no_secret_and_commands_nothing(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        fail("https://me:secret@host has \x1b[2J\nan error")
    assert capsys.readouterr().err == "error: https://***@host has an error\n"
