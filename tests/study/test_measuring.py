"""The loop over checkpoints: records that are there, one that fails, and a full disk."""

import pytest

from valuegrad.checkpoints.references import resolve
from valuegrad.errors import RunError, UserError
from valuegrad.study import measuring
from valuegrad.study.measuring import Job, Measuring, Resources
from valuegrad.study.records import Records


@pytest.fixture
def loaded(monkeypatch):
    """Policies are the labels of their checkpoints; the list of those that were loaded."""
    labels = []

    def load(checkpoint, **_):
        labels.append(checkpoint.label)
        return checkpoint.label

    monkeypatch.setattr(measuring, "load_policy", load)
    return labels


@pytest.fixture
def start(trajectory, tmp_path):
    """Return a loop over the trajectory that has read its checkpoints."""

    def begin(said=None):
        progress = (lambda *words: said.append(words)) if said is not None else lambda *_: None
        loop = Measuring(Records(tmp_path / "out"), "float32", Resources(progress=progress))
        loop.read(resolve([f"{trajectory}/step*"]))
        return loop

    return begin


def two_jobs(make):
    return lambda content: [Job("test", {"content": content, "n": n}, make) for n in range(2)]


def test_a_policy_is_loaded_once_and_only_where_a_record_is_missing(unchecked, start, loaded):
    said = []
    records = start(said).measure("measuring", two_jobs(lambda policy: {"policy": policy}))
    assert loaded == ["step10", "step20", "step30", "step40", "step50"]
    assert [[r.result["policy"] for r in rs] for rs in records.values()] == [[x, x] for x in loaded]
    assert said == [("measuring", done, 10) for done in range(11)]
    loop = start()
    assert loop.measure("measuring", two_jobs(lambda policy: {"never": policy})) == records
    assert (len(loaded), loop.reused) == (5, 10)


def test_a_failure_stops_its_own_checkpoint_alone(unchecked, start, loaded):
    def make(policy):
        if policy == "step30":
            raise RunError("judge away")
        return {}

    loop = start()
    loop.measure("measuring", two_jobs(make))
    assert [c.label for c in loop.whole()] == ["step10", "step20", "step40", "step50"]
    assert list(loop.failures().values()) == ["judge away"]
    # What a later measurement asks for is not made of a checkpoint that failed.
    assert len(loop.measure("again", two_jobs(lambda policy: {}))) == 4
    assert loaded.count("step30") == 1


def test_where_all_fail_the_first_failure_is_raised(unchecked, start, loaded):
    def make(policy):
        raise UserError("site", policy, "another", "change it")

    with pytest.raises(UserError, match="site: got step10"):
        start().measure("measuring", two_jobs(make))
    assert len(loaded) == 5


def test_a_full_disk_stops_them_all(unchecked, start, loaded):
    def make(policy):
        raise RunError("no space") from OSError(28, "no space")

    with pytest.raises(RunError, match="no space"):
        start().measure("measuring", two_jobs(make))
    assert loaded == ["step10"]


def test_a_damaged_record_is_the_failure_of_its_checkpoint(unchecked, start, loaded):
    loop = start()
    loop.measure("measuring", two_jobs(lambda policy: {}))
    damaged = min(loop.records.folder.iterdir())
    damaged.write_text("{")
    loop = start()
    loop.measure("measuring", two_jobs(lambda policy: {}))
    (message,) = loop.failures().values()
    assert f"{damaged}: got a damaged record" in message
    assert len(loaded) == 5
