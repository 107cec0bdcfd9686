"""Every figure of a study: which there are, and that every checkpoint is in each."""

import json

import pytest
from tests.report.documents import document, values_of

from valuegrad.report.page import specifications
from valuegrad.study.result import study_result

TRAINED = ["predictors", "ranking", "gain", "scatter", "readiness", "budgets", "z_scores"]
UNTRAINED = ["ranking", "readiness", "components"]


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("undefined", [[], ["step"], ["probe_step", "p_gap", "gain_mean", "sigma"]])
def test_every_checkpoint_is_in_every_figure(undefined, trained):
    found = document(trained=trained)
    for i, name in enumerate(undefined):
        found["checkpoints"][i][name] = None
    specs = specifications(study_result(found))
    assert list(specs) == (TRAINED if trained else UNTRAINED)
    labels = {c["label"] for c in found["checkpoints"]}
    for name, spec in specs.items():
        assert name == "predictors" or labels <= values_of(json.loads(spec)), name


def test_what_is_undefined_is_null_in_a_figure():
    found = document()
    found["checkpoints"][0]["probe_step"] = None
    for spec in specifications(study_result(found)).values():
        assert "NaN" not in spec
    assert '"value": null' in specifications(study_result(found))["scatter"]
