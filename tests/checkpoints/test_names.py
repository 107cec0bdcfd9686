"""What names of revisions and folders say, the order of training, and short names."""

import random

import pytest

from valuegrad.checkpoints.names import (
    labels,
    one_trajectory,
    parse_revision,
    share_a_run,
    training_order,
)


@pytest.mark.parametrize(
    ("name", "stage", "step", "tokens"),
    [
        ("stage1-step50000-tokens105B", 1, 50_000, 105 * 10**9),
        ("stage2-ingredient1-step1000-tokens5B", 2, 1000, 5 * 10**9),
        ("stage1-step0", 1, 0, None),
        ("step1000", None, 1000, None),
        ("step-240000", None, 240_000, None),
        ("stage3-step-4720000", 3, 4_720_000, None),
        ("step50000-tokens210B", None, 50_000, 210 * 10**9),
        ("step7-tokens1.5T", None, 7, 1_500_000_000_000),
        ("checkpoint-150", None, 150, None),
        ("main", None, None, None),
        ("footstep12", None, None, None),
    ],
)
def test_a_name_says_stage_step_and_tokens(name, stage, step, tokens):
    read = parse_revision(name)
    assert (read.stage, read.step, read.tokens) == (stage, step, tokens)


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("step_700", 700),
        ("checkpoint_0012", 12),
        ("ckpt-700", 700),
        ("ckpt_7000", 7000),
        ("iter_0000700", 700),
        ("iter-000700-ckpt", 700),
        ("iteration_700", 700),
        ("global_step700", 700),
        ("globalstep_700", 700),
        ("epoch=2-step=700", 700),
        ("epoch=02-step=00700-val_loss=1.52", 700),
        ("STEP-70K", 70_000),
        ("step0.25M", 250_000),
        ("12.5k-steps", 12_500),
        ("step700-seed-default", 700),
        ("CrystalCoder_phase3_checkpoint_027728", 27_728),
        ("700", 700),
        ("1000000", 1_000_000),
    ],
)
def test_steps_are_read_in_every_scheme_and_unit(name, step):
    assert parse_revision(name).step == step


@pytest.mark.parametrize(
    "name",
    [
        "ckpt_045",  # LLM360 counts checkpoints
        "step1.5",
        "step_10_000",
        "step-10,000",
        "step700b",
        "epoch-3",
        "epoch_1_step_700",
        "epoch_1/step_700",
        "grpo-from-step700",
        "grpo_from_global_step700/hf",
        "warmup-steps-700",
        "warmup_700steps",
        "sft-step700-checkpoint-50",
        "7",
        "20240501",
        "global_step_700/final",
        "grpo-on-step700/model",
    ],
)
def test_a_number_that_may_be_no_step_is_not_read(name):
    assert parse_revision(name).step is None


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("verl/global_step_70/actor/huggingface", 70),
        ("run/global_step_70/policy/hf_model", 70),
        ("run/iter_0000070/hf", 70),
        ("run/step70-tokens2B/model", 70),
        ("run/stage2-step70/model", 70),
        ("run/7000/weights", 7000),
        ("run/step70/model/checkpoint-7", 7),
    ],
)
def test_of_a_path_the_folder_that_tells_is_read(name, step):
    assert parse_revision(name).step == step


@pytest.mark.parametrize(
    ("name", "tokens"),
    [
        ("TinyLlama-1.1B-step-100K-215b", 215 * 10**9),
        ("TinyLlama-1.1B-intermediate-step-715k-1.5T", 1_500_000_000_000),
        ("TinyLlama-1.1B-intermediate-step-955k-token-2T", 2 * 10**12),
        ("train_01540B", 1540 * 10**9),
        ("280b_tokens", 280 * 10**9),
        ("open_llama_3b_600bt", 600 * 10**9),
        ("step-001000-2BT", 2 * 10**9),
        ("tokens_30M", 30 * 10**6),
        ("checkpoint-700-7B", None),  # the sizes of models
        ("step700-7b", None),
        ("train_7B", None),
        ("13B", None),
    ],
)
def test_tokens_are_told_from_the_size_of_the_model(name, tokens):
    assert parse_revision(name).tokens == tokens


def test_a_stage_may_be_in_the_folder_above():
    assert parse_revision("olmo/stage2/step70").stage == 2
    assert parse_revision("olmo/stage2/step70/model").stage == 2


@pytest.mark.parametrize(
    "names",
    [
        ("step-900", "step-1k", "step1.5k", "step-2000", "step-10k", "final", "release"),
        ("ckpt_000", "ckpt_099", "ckpt_358", "ckpt_1000", "main"),
        ("5", "10", "500", "1000", "main"),
        ("0.9B", "9.44B", "10.5B", "100B", "main"),
        ("train_00220B", "train_00440B", "train_02640B"),
        ("phase1/step900", "phase1/step5000", "phase2/step10", "phase2/step900", "main"),
        ("epoch_0_step_900", "epoch_1_step_20", "epoch_10_step_3"),
        (
            "stage1-step1000",
            "stage1-step5000",
            "stage1-final",
            "stage2-ingredient1-step10",
            "stage2-ingredient1-step3000",
            "stage2-ingredient2-step10",
            "stage2-ingredient10-step10",
            "lc-4k-to-32k-step-20000",
            "lc-32k-to-64k-step-4000",
            "main",
        ),
        ("global_step_5/actor/hf", "global_step_50/actor/hf", "global_step_100/actor/hf"),
    ],
)
def test_the_order_is_that_of_training(names):
    shuffled = random.Random(0).sample(names, len(names))
    assert sorted(shuffled, key=training_order) == list(names)


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (("runs/a/step1", "runs/a/step2"), ["step1", "step2"]),
        (("runs/a/step1", "runs/b/step1", "runs/a/main"), ["a/step1", "b/step1", "a/main"]),
        (("u/llm", "v/llm"), ["u/llm", "v/llm"]),
        (("u/llm@step1", "u/small@step1"), ["llm@step1", "small@step1"]),
        (("u/llm@step1", "v/llm@step1"), ["u/llm@step1", "v/llm@step1"]),
        (
            ("/a/global_step_5/actor/hf", "/a/global_step_9/actor/hf"),
            ["global_step_5", "global_step_9"],
        ),
        (
            ("x/global_step_5/actor/hf", "y/global_step_5/actor/hf"),
            ["x/global_step_5", "y/global_step_5"],
        ),
        (("x/step5/actor/hf", "x/step5/policy/hf"), ["actor/hf", "policy/hf"]),
        (("a/run/model", "b/run/model"), ["a/run/model", "b/run/model"]),
        (("step1", "a/step1"), ["step1", "a/step1"]),
        ((), []),
    ],
)
def test_labels_are_as_short_as_they_can_be_and_as_different_as_names(names, short):
    assert labels(names) == short


def test_steps_of_other_runs_and_stages_are_no_common_scale():
    assert one_trajectory(["runs/a/step1", "runs/a/step-2", "runs/a/checkpoint_3"])
    assert one_trajectory(["a/global_step_5/actor/hf", "a/global_step_9/actor/hf"])
    assert one_trajectory(["a/epoch=0-step=5", "a/epoch=1-step=9"])
    assert one_trajectory(["u/llm-step-1k", "u/llm-step-2k"])
    assert one_trajectory(["a/500", "a/1000"])
    assert not one_trajectory(["runs/a/step1", "runs/b/step2"])
    assert not one_trajectory(["u/llm@stage1-step9", "u/llm@stage2-step1"])
    assert not one_trajectory(["u/llm@lc-4k-to-32k-step-9", "u/llm@lc-32k-to-64k-step-4"])
    assert not one_trajectory(["a/sft-step1", "a/dpo-step2"])


def test_checkpoints_with_steps_may_be_of_one_run():
    assert share_a_run([("runs/a/step1", 1), ("runs/a/step2", 2), ("runs/b/step1", 1)])
    assert not share_a_run([("runs/a/step1", 1), ("runs/b/step1", 1)])
    assert not share_a_run([("models/small", None), ("models/large", None)])
