"""Progress where stderr is no terminal: a line now and then, with the time left."""

from valuegrad.cli import console


def test_lines_come_every_ten_seconds_and_say_the_time_left(monkeypatch, capsys):
    clock = iter([0.0, 5.0, 20.0, 29.0, 80.0, 85.0])
    monkeypatch.setattr(console.time, "monotonic", lambda: next(clock))
    say = console.plain_lines()
    for done in range(4):
        say("scoring", done, 8)
    say("scoring", 4, 8)
    say("scoring", 8, 8)
    assert capsys.readouterr().err.splitlines() == [
        "scoring 0/8",
        "scoring 2/8, 1 min 0 s left",
        "scoring 4/8, 1 min 20 s left",
        "scoring 8/8",
    ]
