from __future__ import annotations

import io

import pytest
from rich.console import Console

from archlab import progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds, moved by hand."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_log_gets_a_line_every_ten_seconds_and_one_at_the_end(
    capsys: pytest.CaptureFixture[str], clock: list[float]
) -> None:
    with progress.track("training [token]", 100) as work:
        for _ in range(100):
            clock[0] += 0.25
            work.advance(loss=1.23456)
    assert capsys.readouterr().err.splitlines() == [
        "training [token]: 40/100, loss 1.235, 15 s left",
        "training [token]: 80/100, loss 1.235, 5 s left",
        "training [token]: 100/100, loss 1.235, done in 25 s",
    ]


def test_the_time_left_of_a_resumed_run_is_not_estimated_from_steps_of_an_earlier_session(
    capsys: pytest.CaptureFixture[str], clock: list[float]
) -> None:
    with progress.track("resumed", 100, done=90) as work:
        clock[0] += 10.0
        work.advance(5)
    assert capsys.readouterr().err == "resumed: 95/100, 10 s left\n"


def test_a_terminal_gets_a_bar_with_step_and_loss_and_bars_may_nest(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=120)
    monkeypatch.setattr(progress, "Console", lambda **_: terminal)
    with progress.track("outer", 4, done=1) as outer:
        with progress.track("inner", 2) as inner:
            inner.advance(2)
        outer.advance(loss=0.5)
    shown = screen.getvalue()
    assert "outer" in shown
    assert "2/4" in shown
    assert "loss 0.5" in shown
    assert "inner" in shown


def test_a_bar_knows_the_time_left_of_work_whose_units_take_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    screen, now = io.StringIO(), [0.0]
    terminal = Console(file=screen, force_terminal=True, width=120, get_time=lambda: now[0])
    monkeypatch.setattr(progress, "Console", lambda **_: terminal)
    with progress.track("cells", 10) as work:
        for _ in range(3):
            now[0] += 120.0
            work.advance()
    assert "0:14:00" in screen.getvalue()
