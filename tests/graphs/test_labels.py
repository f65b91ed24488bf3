"""Which class a label means."""

import pytest

from graphgpt.graphs.labels import classes_of


@pytest.mark.parametrize("word", ["nan", "NaN", "NA", "N/A", "<NA>", "None", "null", "-1", "-1.0", "unknown", "Unlabeled", "?"])
def test_words_that_stand_for_no_label(word: str) -> None:
    classes, notes = classes_of({"": 3, word: 2, "birds": 5}, (), False)
    assert classes == {"": "", word: "", "birds": "birds"}
    assert notes == [
        f"The label '{word}' (2 nodes) was taken for unlabelled; --classes (dataset.classes) names a class that is really called so."
    ]
    assert classes_of({word: 2, "birds": 5}, (word, "birds"), False) == ({word: word, "birds": "birds"}, [])


def test_a_whole_number_as_a_float_is_the_same_class() -> None:
    classes, notes = classes_of({"1": 1, "1.0": 4, "2.0": 3, "1.5": 1}, (), False)
    assert classes == {"1": "1", "1.0": "1", "2.0": "2.0", "1.5": "1.5"}  # one spelling alone stays as it is
    assert notes == ["The label '1.0' (4 nodes) was taken for the class '1'."]
    assert classes_of({"1.0": 4}, ("1",), False)[0] == {"1.0": "1"}


def test_accents_composed_or_not_are_the_same_class() -> None:
    composed, apart = "\u00e9toiles", "e\u0301toiles"
    classes, notes = classes_of({apart: 4, composed: 1}, (), False)
    assert set(classes.values()) == {composed}
    assert notes == [f"The label '{apart}' (4 nodes), in another Unicode form, was taken for the class '{composed}'."]
    assert classes_of({apart: 4}, (), False) == ({apart: apart}, [])


def test_case_and_spaces_are_said_and_joined_when_asked_for() -> None:
    counts = {"Birds": 1, "birds": 4, "blue  birds": 2, "Blue birds": 2}
    classes, notes = classes_of(counts, (), False)
    assert classes == {label: label for label in counts}
    assert notes == [
        "The classes 'Birds' and 'birds' differ only in case or spaces: --normalize (dataset.normalize=true) makes them one.",
        "The classes 'Blue birds' and 'blue  birds' differ only in case or spaces: --normalize (dataset.normalize=true) makes them one.",
    ]
    classes, notes = classes_of(counts, (), True)
    assert classes == {"Birds": "birds", "birds": "birds", "blue  birds": "Blue birds", "Blue birds": "Blue birds"}
    assert notes == [
        "The label 'Birds' (1 node) was taken for the class 'birds'.",
        "The label 'blue  birds' (2 nodes) was taken for the class 'Blue birds'.",
    ]


def test_given_names_win() -> None:
    assert classes_of({"Birds": 1, "birds": 4}, ("Birds", "birds"), True) == ({"birds": "birds", "Birds": "Birds"}, [])
    assert classes_of({"BIRDS": 1}, ("Birds",), True)[0] == {"BIRDS": "Birds"}
    assert classes_of({"BIRDS": 1}, ("Birds",), False)[0] == {"BIRDS": "BIRDS"}
