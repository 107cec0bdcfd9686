"""What models are pretrained on: code, and arithmetic whose prompts no task measures on."""

import pytest

from valuegrad.demo.text import END, byte_level_bpe, problem_sequences, standard_library


@pytest.fixture(scope="module")
def tokenizer():
    texts = ["total = first + second\n", "def price(count):\n    return 12 * count\n"] * 20
    return byte_level_bpe(texts, 300, single_digits=True)


@pytest.mark.parametrize("length", [7, 64])
@pytest.mark.parametrize("digits", [1, 2])
def test_every_sequence_of_problems_is_full_and_begins_with_a_whole_one(tokenizer, length, digits):
    batches = problem_sequences(tokenizer, length, 5, digits, seed=0)
    for _, batch in zip(range(3), batches, strict=False):
        assert batch.shape == (5, length + 1)
        assert tokenizer.get_vocab()[END] not in batch
        for row in batch.tolist():
            *whole, cut = tokenizer.decode(row).split("\n")
            assert whole or length < 9
            for line in whole:
                problem, answer = line.split("=")
                assert eval(problem) == int(answer)
            assert all(character in "0123456789+=" for character in cut)


def test_sequences_of_problems_follow_from_the_seed(tokenizer):
    first, again, other = (
        next(problem_sequences(tokenizer, 64, 4, 2, seed=seed)) for seed in (0, 0, 1)
    )
    assert (first == again).all()
    assert (first != other).any()
    assert len({tuple(row.tolist()) for row in first}) == 4


def test_the_standard_library_is_there_in_order():
    texts = standard_library()
    assert len(texts) > 300
    assert texts == standard_library()
