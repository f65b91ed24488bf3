"""The ``ogb`` dataset: the layout of ogbn-arxiv, gzipped and not, and what is refused."""

import gzip
import io
import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphgpt.datasets.ogb import OgbConfig, OgbFolder
from graphgpt.errors import DataError
from graphgpt.registry import DATASETS

FILES = {
    "raw/edge.csv.gz": "0,1\n1,2\n1,0\n",
    "raw/num-node-list.csv.gz": "4\n",
    "raw/num-edge-list.csv.gz": "3\n",
    "raw/node-feat.csv.gz": "0,1\n0.5,2\n-1e-1,3\n4,5\n",
    "raw/node-label.csv.gz": "1\n0\nnan\n1\n",
    "split/time/train.csv.gz": "0\n",
    "split/time/valid.csv.gz": "1\n",
    "split/time/test.csv.gz": "3\n",
    "mapping/README.md": "# ogbn-arxiv\n",
    "mapping/nodeidx2paperid.csv.gz": "node idx,paper id\n0,900\n1,901\n2,902\n3,903\n",
    "mapping/labelidx2arxivcategeory.csv.gz": "label idx,arxiv category\n0,arxiv cs na\n1,arxiv cs mm\n",
    "titleabs.tsv": '901\tSecond "paper"\tAbout two\n777\tAnother\tnot here\n900\tFirst\tAbout one, and more\n903\tFourth\n',
}


def dataset(folder: Path, changed: dict[str, str | None] | None = None, **fields: Any) -> OgbFolder:
    root = folder / "ogbn_arxiv"
    for name, text in (FILES | (changed or {})).items():
        if text is not None:
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return OgbFolder(OgbConfig(name="ogb", text_encoder={}, path=str(root), **fields))


def test_is_registered() -> None:
    assert DATASETS.get("ogb") is OgbFolder


def test_reads_all_of_it(tmp_path: Path) -> None:
    graph = dataset(tmp_path).build()
    assert graph.ids.to_pylist() == ["900", "901", "902", "903"]
    assert graph.titles.to_pylist() == ["First", 'Second "paper"', "node 902", "Fourth"]
    assert graph.bodies.to_pylist() == ["About one, and more", "About two", "", ""]
    assert graph.class_names == ("arxiv cs na", "arxiv cs mm") and graph.y.tolist() == [1, 0, -1, 1]
    assert [graph.neighbors(i).tolist() for i in range(4)] == [[1], [0, 2], [1], []]
    np.testing.assert_allclose(graph.features, [[0, 1], [0.5, 2], [-0.1, 3], [4, 5]], rtol=1e-6)
    assert graph.split is not None and graph.split.tolist() == [0, 1, -1, 2]
    assert graph.card["files"] == ["ogbn_arxiv", "titleabs.tsv"] and graph.card["without_text"] == 1


def test_unzipped_files_without_features_and_split(tmp_path: Path) -> None:
    expected = dataset(tmp_path / "a").build().fingerprint
    plain = {name.removesuffix(".gz"): text for name, text in FILES.items() if name.startswith(("raw", "mapping")) and "feat" not in name}
    graph = dataset(tmp_path / "b", {name: None for name in FILES if name.endswith(".gz")} | plain).build()
    assert graph.fingerprint == expected
    assert graph.x is None and graph.split is None


@pytest.mark.parametrize("kind", ["gzip", "tar"])
def test_texts_in_a_gzip_file_and_in_a_tar_archive_called_tsv(tmp_path: Path, kind: str) -> None:
    expected = dataset(tmp_path / "a").build().fingerprint
    made = dataset(tmp_path / "b", {"titleabs.tsv": None})
    texts, path = FILES["titleabs.tsv"].encode(), Path(made.config.path) / "titleabs.tsv.gz"
    if kind == "gzip":
        path.write_bytes(gzip.compress(texts))
    else:
        with tarfile.open(path, "w:gz") as archive:
            member = tarfile.TarInfo("titleabs.tsv")
            member.size = len(texts)
            archive.addfile(member, io.BytesIO(texts))
    assert made.build().fingerprint == expected


def test_given_texts_classes_and_features_win(tmp_path: Path) -> None:
    (tmp_path / "texts.tsv").write_text("902\tThird\tAbout three\n")
    np.save(tmp_path / "x.npy", np.zeros((4, 7)))
    fields = {"texts": str(tmp_path / "texts.tsv"), "classes": ["cs.NA", "cs.MM"], "features": str(tmp_path / "x.npy")}
    graph = dataset(tmp_path, **fields).build()
    assert graph.title(2) == "Third" and graph.card["without_text"] == 3
    assert graph.class_names == ("cs.NA", "cs.MM") and graph.features.shape == (4, 7)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"raw/edge.csv.gz": None}, "raw: expected edge.csv or edge.csv.gz, found 'node-feat.csv.gz', "),
        ({"raw/edge.csv.gz": "0,1\n1,4\n"}, "edge.csv.gz, line 2: 4 is no node, expected a number from 0 to 3."),
        ({"raw/edge.csv.gz": "0,1,2\n"}, "edge.csv.gz: 3 columns, expected 2: source and target."),
        ({"raw/edge.csv.gz": "0,a\n"}, "edge.csv.gz: expected numbers separated by commas, but: "),
        ({"raw/edge.csv.gz": "0,1\n2,\n"}, "edge.csv.gz: a field is empty, expected a number in each."),
        ({"raw/edge.csv.gz": ""}, "edge.csv.gz: expected numbers separated by commas, but: "),
        ({"raw/num-node-list.csv.gz": "2\n2\n"}, "num-node-list.csv lists 2 graphs, expected one."),
        ({"raw/node-label.csv.gz": "1\n0\n"}, "node-label.csv.gz: 2 lines of 1 labels, expected 4 lines of one"),
        ({"raw/node-label.csv.gz": "1\n0\n0.5\n1\n"}, "node-label.csv.gz, line 3: the label 0.5 is no whole number."),
        ({"raw/node-label.csv.gz": "1\n0\n2\n1\n"}, "labelidx2arxivcategeory.csv.gz: 2 is missing, expected all from 0 to 2."),
        ({"raw/node-feat.csv.gz": "0,1\n"}, "node-feat.csv.gz: Node features have shape [1, 2], expected [4, d]: one row per node."),
        (
            {"mapping/nodeidx2paperid.csv.gz": "node idx,paper id\n1,901\n"},
            "nodeidx2paperid.csv.gz: 0 is missing, expected all from 0 to 3.",
        ),
        ({"mapping/nodeidx2paperid.csv.gz": "node idx\n1\n"}, "nodeidx2paperid.csv.gz: expected a header and two columns, "),
        (
            {"mapping/nodeidx2paperid.csv.gz": "node idx,paper id\n0,900\n1,900\n2,902\n3,903\n"},
            "titleabs.tsv: cannot be matched, for mapping/ gives 1 node an id that another has.",
        ),
        ({"titleabs.tsv": None}, "ogbn_arxiv has no texts: expected titleabs.tsv or titleabs.tsv.gz in it"),
        ({"titleabs.tsv": "1\tA\tB\n"}, "titleabs.tsv: no line begins with the id of a node (such as '900') and a tab."),
        ({"split/time/test.csv.gz": "3\n0\n"}, "test.csv.gz, line 2: node 0 is in the train split already."),
        ({"split/time/test.csv.gz": "4\n"}, "test.csv.gz, line 1: 4 is no node, expected a number from 0 to 3."),
        ({"split/time/test.csv.gz": None}, "time: expected test.csv or test.csv.gz, found 'train.csv.gz', 'valid.csv.gz'."),
        ({"split/random/train.csv.gz": "0\n"}, "split: expected one scheme, found 'random', 'time'; leave the one to be used."),
    ],
)
def test_refuses_in_words(tmp_path: Path, changed: dict[str, str | None], message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        dataset(tmp_path, changed).build()


def test_problems_and_fingerprint(tmp_path: Path) -> None:
    made = dataset(tmp_path)
    assert OgbFolder.problems(made.config) == []
    missing = OgbConfig(name="ogb", text_encoder={}, path=str(tmp_path / "ogbn_arxv"), texts=str(tmp_path / "no.tsv"))
    assert OgbFolder.problems(missing) == [
        f"dataset.path={tmp_path / 'ogbn_arxv'}: there is no such folder. Did you mean 'ogbn_arxiv'?",
        f"dataset.texts={tmp_path / 'no.tsv'}: there is no such file.",
    ]
    first = made.fingerprint()
    assert OgbFolder(made.config).fingerprint() == first
    assert dataset(tmp_path, {"titleabs.tsv": "900\tFirst\tElse\n"}).fingerprint() != first
