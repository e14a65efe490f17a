import dataclasses
import pickle

import pytest

from mmnas.errors import ConfigError
from mmnas.text.vocabulary import CLS_ID, PAD_ID, UNK_ID, Vocabulary


@pytest.fixture
def vocabulary():
    return Vocabulary.from_token_lists([["a", "red", "bus"], [], iter(["red", "a", "car"])])


def test_words_stand_in_order_of_first_appearance(vocabulary):
    assert vocabulary.words == ("PAD", "UNK", "CLS", "a", "red", "bus", "car")
    assert len(vocabulary) == 7
    assert "bus" in vocabulary.words
    assert "dog" not in vocabulary.words


def test_special_ids():
    assert (PAD_ID, UNK_ID, CLS_ID) == (0, 1, 2)
    assert Vocabulary.from_token_lists([]).words == ("PAD", "UNK", "CLS")


def test_encode_knows_unknown_words_and_cuts(vocabulary):
    assert vocabulary.encode(["a", "dog", "car"], 14) == [3, 1, 6]
    assert vocabulary.encode(["a", "red", "bus", "car"], 2) == [3, 4]
    assert vocabulary.encode(["a", "red"], 2) == [3, 4]


def test_a_text_without_tokens_is_one_unknown_word(vocabulary):
    assert vocabulary.encode([], 14) == [1]


def test_a_word_spelled_like_a_special_one_gets_no_second_place():
    assert Vocabulary.from_token_lists([["UNK", "x"]]).words == ("PAD", "UNK", "CLS", "x")


def test_survives_storage_and_compares_by_words(vocabulary):
    assert Vocabulary(list(vocabulary.words)) == vocabulary
    assert pickle.loads(pickle.dumps(vocabulary)).encode(["car"], 1) == [6]
    assert Vocabulary((*vocabulary.words, "dog")) != vocabulary
    assert hash(Vocabulary(vocabulary.words)) == hash(vocabulary)
    assert repr(Vocabulary(["PAD", "UNK", "CLS"])) == "Vocabulary(words=('PAD', 'UNK', 'CLS'))"


def test_is_frozen(vocabulary):
    with pytest.raises(dataclasses.FrozenInstanceError):
        vocabulary.words = ()


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ([], "not with nothing"),
        (["PAD", "CLS", "UNK", "a"], "not with 'PAD', 'CLS', 'UNK'"),
        (["a", "b"], "not with 'a', 'b'"),
        (["PAD", "UNK", "CLS", "a", "b", "a"], "entry 5 repeats 'a'"),
        (["PAD", "UNK", "CLS", "PAD"], "entry 3 repeats 'PAD'"),
        (["PAD", "UNK", "CLS", 7], "entry 3 is 7"),
    ],
)
def test_a_damaged_vocabulary_is_refused(words, named):
    with pytest.raises(ConfigError, match=named) as caught:
        Vocabulary(words)
    assert "checkpoint" in str(caught.value)
    assert "\n" not in str(caught.value)
