"""Which class a label means that somebody wrote into a table."""

import re
import unicodedata
from collections.abc import Collection, Mapping

#: Labels, whatever the case of their letters, that programs and people write where they have none.
NO_LABEL = {"", "nan", "na", "n/a", "<na>", "#n/a", "none", "null", "-1", "-1.0", "unknown", "unlabeled", "unlabelled", "?", "-"}


def classes_of(counts: Mapping[str, int], given: Collection[str], normalize: bool) -> tuple[dict[str, str], list[str]]:
    """The class of every label, and a sentence for everything that was decided so.

    A word of ``NO_LABEL`` that is no given class is no class; one number or one text written in two ways is one class.

    Args:
        counts: How many nodes have each label, without spaces around it.
        given: The class names, where the user has named them.
        normalize: Whether labels that differ only in case and spaces are one class too.

    Returns:
        Class names by label, empty for none; and the sentences.
    """
    notes = []
    words = {label: count for label, count in counts.items() if label.casefold() in NO_LABEL and label not in given}
    if said := counted({label: count for label, count in words.items() if label}):
        notes.append(f"The label {said} was taken for unlabelled; --classes (dataset.classes) names a class that is really called so.")
    one = _loosely if normalize else _strictly
    groups: dict[str, list[str]] = {}
    for label in sorted(counts.keys() - words.keys(), key=lambda label: (-counts[label], label)):
        groups.setdefault(one(label), []).append(label)
    given_as = {one(name): name for name in given}
    classes = dict.fromkeys(words, "")
    for key, labels in groups.items():
        name = given_as.get(key) or (_strictly(labels[0]) if len(labels) > 1 else labels[0])
        classes |= {label: label if label in given else name for label in labels}
        if others := [label for label in labels if classes[label] != label]:
            form = ", in another Unicode form," if all(unicodedata.normalize("NFC", label) == name for label in others) else ""
            notes.append(f"The label {counted({label: counts[label] for label in others})}{form} was taken for the class '{name}'.")
    alike: dict[str, list[str]] = {}
    for name in sorted({*classes.values()} - {"", *given}):
        alike.setdefault(_loosely(name), []).append(name)
    for names in alike.values():
        if len(names) > 1:
            pair = " and ".join(f"'{name}'" for name in names)
            notes.append(f"The classes {pair} differ only in case or spaces: --normalize (dataset.normalize=true) makes them one.")
    return classes, notes


def counted(words: Mapping[str, int]) -> str:
    """Words, each with how many nodes have it, as a sentence has them; empty for none."""
    return ", ".join(f"'{word}' ({count:,} {'node' if count == 1 else 'nodes'})" for word, count in words.items())


def _strictly(label: str) -> str:
    """Equal for what is certainly one class: a whole number as a float or not, a letter and its accent composed or not."""
    return label.split(".")[0] if re.fullmatch(r"[+-]?\d+\.0+", label) else unicodedata.normalize("NFC", label)


def _loosely(label: str) -> str:
    """Equal for what may be one class: letters of either case, any spaces between words."""
    return unicodedata.normalize("NFC", " ".join(_strictly(label).split()).casefold())
