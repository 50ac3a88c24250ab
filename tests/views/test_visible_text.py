"""Text that reaches a terminal, and numbers in words."""

import shlex

import pytest

from ensue.views.text import clock, command, duration, place, plain, short, size, visible


@pytest.mark.parametrize("code", [*range(0x20), *range(0x7F, 0xA0), 0x202E, 0x2066, 0x2028, 0xDC80])
def test_no_control_character_reaches_a_terminal(code):
    """An escape sequence in a text file would repaint the terminal, a bidi mark turn it round."""
    shown = visible(f"a{chr(code)}b")
    if chr(code) in "\n\t":
        assert shown == f"a{chr(code)}b"
    else:
        assert chr(code) not in shown
        assert shown.encode().startswith(b"a\\")  # also: encodable, which a lone surrogate is not


def test_scripts_keep_what_they_need():
    """Joiners shape Persian and emoji: made visible, they would break ordinary text."""
    text = "می‌خواهم 👩‍🚀 東京 é\n\tx"
    assert visible(text) == text


def test_numbers_read_well():
    assert [size(0), size(999), size(1_115_394), size(2e13)] == [
        "0 B",
        "999 B",
        "1.12 MB",
        "20 TB",
    ]
    assert [short(0), short(999), short(999.9), short(10_770_000)] == ["0", "999", "1k", "10.8M"]
    assert [clock(41), clock(3723), clock(-1)] == ["0:41", "1:02:03", "0:00"]
    assert [duration(0.17), duration(59.9), duration(175), duration(3700)] == [
        "0.17 s",
        "1 min 0 s",
        "2 min 55 s",
        "1 h 1 min",
    ]
    assert plain({"a": [1, 2.5], "b": True, "c": ""}) == "a 1, 2.5, b yes, c –"


@pytest.mark.parametrize("word", ["two words", "it's", 'say "x" $HOME', "a\\b c", "--x", "東 京"])
def test_a_command_can_be_pasted(word):
    """A prompt with a quote or a dollar would run something else."""
    assert shlex.split(command("ensue", "generate", word)) == ["ensue", "generate", word]


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/home/alice/secret/book.txt", "book.txt"),
        ("C:\\Users\\alice\\book.txt", "book.txt"),
        ("../alice/book.txt", "book.txt"),
        ("~/alice/book.txt", "book.txt"),
        ("books/book.txt", "books/book.txt"),
        ("hub:owner/name", "hub:owner/name"),
        ("-", "-"),
        ("", "."),
    ],
)
def test_a_report_does_not_tell_where_on_a_machine_a_file_lies(path, shown):
    assert place(path) == shown
