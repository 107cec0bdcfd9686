"""What is said of wrong flags and of scores that may mislead."""

from valuegrad.cli.app import make_app
from valuegrad.cli.messages import as_typed, score_warnings
from valuegrad.tasks.settings import TaskSettings


def test_a_score_without_right_answers_suggests_a_stop(capsys):
    score = {"label": "step7", "estimator": "teacher-forced", "reward_before": 1e-8, "truncated": 0}
    score |= {"probe_prompts": 128, "n_prompts": 256}
    (warning,) = score_warnings(score, TaskSettings(name="some.jsonl"))
    assert r"--stop '\n'" in warning
    assert not score_warnings(score, TaskSettings(name="some.jsonl", stop="\n"))
    assert not score_warnings(score, TaskSettings(name="arithmetic"))
    assert not score_warnings({**score, "reward_before": 0.01}, TaskSettings(name="some.jsonl"))
    cut = {**score, "reward_before": 0.01, "truncated": 0.9}
    assert "90% of the completions of step7" in score_warnings(cut, TaskSettings())[0]
    few = {**score, "reward_before": 0.01, "probe_prompts": 3}
    assert "rests on 3 training prompts" in score_warnings(few, TaskSettings())[0]


def test_settings_are_named_as_they_are_typed():
    app = make_app()
    text = "group_size: got 40; wanted at most `rollouts`. Fix: raise `rollouts` or see `other`"
    typed = "--group-size: got 40; wanted at most --rollouts. Fix: raise --rollouts or see `other`"
    assert as_typed(text, app, "score") == typed
    # A study's settings are keys of its file, whose names stay.
    assert as_typed(text, app, "study") == text
    assert as_typed("device: got 'x'", app, "study") == "--device: got 'x'"
    assert as_typed("task_seed: got 3", app, "train") == "--task-seed: got 3"
    assert as_typed("config: got x", app, "study") == "CONFIG: got x"
    left_out = "step3 failed and was left out: site: got 9"
    assert as_typed(left_out, app, "score") == left_out.replace("site:", "--site:")
    assert as_typed("alpha.toml: dtype: got 8", app, "study") == "alpha.toml: dtype: got 8"
    assert as_typed(text, app, "bogus") == text
