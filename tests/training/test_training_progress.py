"""What the person sees."""

import io

import pytest
from rich.console import Console

from prunus.training.progress import Lines, Rich, Silent, remaining, reporter


def console(**settings):
    return Console(file=io.StringIO(), width=100, **settings)


def test_time_left_is_proportional():
    assert remaining(10.0, 2, 3) == "15 s"
    assert remaining(60.0, 1, 2) == "2 min 0 s"
    assert remaining(1.0, 0, 2) == "unknown time"


def test_lines_say_where_they_are():
    plain = console()
    lines = Lines(plain, every_seconds=0.0)
    lines.say("a long word " * 20)
    with lines.bar("train", 10, done=4) as bar:
        bar.advance(3, "loss 0.5")
    text = plain.file.getvalue()
    assert text.count("\n") == 2
    assert "train: 7 of 10, 0 s left  loss 0.5" in text


def test_lines_are_rare():
    plain = console()
    with Lines(plain).bar("train", 10) as bar:
        bar.advance(1)
    assert plain.file.getvalue() == ""


@pytest.mark.parametrize("kind", [Rich, lambda c: Silent()])
def test_bars_count(kind):
    screen = console(force_terminal=True)
    shown = kind(screen)
    shown.say("hello [not markup]")
    with shown.bar("train", 2) as bar:
        bar.advance(1, "loss 0.5")
        bar.advance(1)
    assert kind is not Rich or "hello [not markup]" in screen.file.getvalue()


def test_reporter_suits_the_stream():
    assert isinstance(reporter(console(force_terminal=True)), Rich)
    assert isinstance(reporter(console(force_terminal=False)), Lines)
