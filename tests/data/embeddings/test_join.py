"""Vectors are joined to images by any of their names, as pandas joins them, or not at all."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bhsearch.data.embeddings.join import ImageVectors, check_unique_names, join, keys_of, name_digests
from bhsearch.data.embeddings.table import VectorTable, table_of
from bhsearch.errors import DataError, SettingsError
from tests.data.embeddings.files import some_vectors, write_lists

PATHS = ["a/one.png", "a/two.png", "b/three.tif"]


def table(folder: Path, keys: list[str], vectors: np.ndarray | None = None, name: str = "path") -> VectorTable:
    values = some_vectors(len(keys)) if vectors is None else vectors
    return table_of(write_lists(folder / "uni.parquet", keys, values, name))


def refused(made: VectorTable, paths: list[str], ids: dict[str, str] | None = None, key: str | None = None) -> str:
    with pytest.raises(DataError) as caught:
        join(made, paths, ids or {}, key)
    assert str(made.file) in str(caught.value)
    return str(caught.value)


KINDS = {
    "path": lambda path: path,
    "windows": lambda path: path.replace("/", "\\"),
    "dot": lambda path: f"./{path}",
    "without suffix": lambda path: str(PurePosixPath(path).with_suffix("")),
    "name": lambda path: PurePosixPath(path).name,
    "stem": lambda path: PurePosixPath(path).stem,
}
NAMES = st.text("abcxyz0189_- é", min_size=1, max_size=8).filter(lambda text: text == text.strip() and text != ".")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    stems=st.lists(NAMES, min_size=2, max_size=12, unique=True),
    folders=st.lists(NAMES, min_size=1, max_size=3),
    suffix=st.sampled_from([".png", ".tif", ".PNG"]),
    kind=st.sampled_from(list(KINDS)),
    data=st.data(),
)
def test_every_image_gets_its_own_vector(tmp_path: Path, stems, folders, suffix, kind, data):
    """Whatever the keys are, and in whatever order: the reference is a merge of pandas on the true pairs."""
    paths = [f"{folders[number % len(folders)]}/{stem}{suffix}" for number, stem in enumerate(stems)]
    order = data.draw(st.permutations(range(len(paths))))
    extra = [f"elsewhere/{number}/other.jpeg" for number in range(data.draw(st.integers(0, 3)))]
    keys = [*(KINDS[kind](paths[place]) for place in order), *extra]
    vectors = some_vectors(len(keys), 3)
    frame = pd.DataFrame({"path": [*(paths[place] for place in order), *extra], "row": range(len(keys))})
    expected = pd.DataFrame({"path": paths}).merge(frame, how="left", validate="one_to_one")["row"].to_numpy()
    found = join(table(tmp_path, keys, vectors), paths, {})
    np.testing.assert_array_equal(found.rows, expected)
    np.testing.assert_array_equal(found.read(), vectors[expected])


def test_ids_of_the_manifest_come_first(tmp_path: Path):
    ids = dict(zip(PATHS, ["7", "8", "9"], strict=True))
    assert join(table(tmp_path, ["9", "8", "7"], name="id"), PATHS, ids).rows.tolist() == [2, 1, 0]


def test_paths_are_taken_if_ids_do_not_fit(tmp_path: Path):
    ids = dict(zip(PATHS, ["7", "8", "9"], strict=True))
    assert join(table(tmp_path, PATHS[::-1]), PATHS, ids).rows.tolist() == [2, 1, 0]


def test_a_selection_of_images(tmp_path: Path):
    found = join(table(tmp_path, PATHS[::-1]), PATHS, {})
    np.testing.assert_array_equal(found.select(np.array([True, False, True])).read(), found.read()[[0, 2]])
    np.testing.assert_array_equal(found.select(np.array([2, 0])).read(), found.read()[[2, 0]])


def test_duplicate_keys(tmp_path: Path):
    assert "b/three.tif: 2 rows" in refused(table(tmp_path, [*PATHS, PATHS[2]]), PATHS)


def test_images_without_a_vector(tmp_path: Path):
    said = refused(table(tmp_path, PATHS[:2]), PATHS)
    assert "Affected (1):" in said
    assert "b/three.tif" in said
    assert "'a/one.png', 'a/two.png'" in said


def test_an_empty_key(tmp_path: Path):
    assert "row 2 has none in the column 'path'" in refused(table(tmp_path, ["a", "", "c"]), PATHS)


def test_a_constant_feature(tmp_path: Path):
    vectors = some_vectors(3)
    vectors[:, 1] = 2
    assert "feature 2 is always 2" in refused(table(tmp_path, PATHS, vectors), PATHS)


def test_one_row_for_two_images(tmp_path: Path):
    """Images of the same name in two folders."""
    said = refused(table(tmp_path, ["one", "two"]), ["a/one.png", "b/one.png", "two.png"])
    assert "'one' would belong to several" in said


def without_known_name(folder: Path) -> VectorTable:
    frame = pd.DataFrame({"where": PATHS, "who": ["x", "y", "z"], "vector": list(some_vectors(3))})
    frame.to_parquet(folder / "x.parquet", index=False)
    return table_of(folder / "x.parquet")


def test_no_column_is_recognised(tmp_path: Path):
    said = refused(without_known_name(tmp_path), PATHS)
    assert "its columns are 'where', 'who', 'vector', of which 'where', 'who' hold text" in said
    assert "--features-key COLUMN" in said


def test_the_user_names_the_column(tmp_path: Path):
    assert join(without_known_name(tmp_path), PATHS, {}, "where").rows.tolist() == [0, 1, 2]


def test_the_user_names_a_column_that_is_not_there(tmp_path: Path):
    with pytest.raises(SettingsError, match=r"--features-key must be .* got 'path'.* 'where', 'who'"):
        join(without_known_name(tmp_path), PATHS, {}, "path")


def test_the_only_column_of_text_is_the_key(tmp_path: Path):
    assert keys_of(table(tmp_path, PATHS, name="whatever")) == ("whatever", PATHS)


def test_the_index_of_pandas_is_a_key(tmp_path: Path):
    frame = pd.DataFrame({"stain": ["he"] * 3, "vector": list(some_vectors(3))}, index=PATHS)
    frame.to_parquet(tmp_path / "x.parquet")
    assert keys_of(table_of(tmp_path / "x.parquet")) == ("__index_level_0__", PATHS)


def test_digests_of_names(tmp_path: Path):
    """An image keeps its digest with another encoder; equal vectors are one image."""
    vectors = some_vectors(3)
    one = join(table(tmp_path, PATHS, vectors), PATHS, {})
    (tmp_path / "other").mkdir()
    other = join(table(tmp_path / "other", PATHS[::-1], some_vectors(3, 7, 5)), PATHS, {})
    cases = ["c1", "c1", "c2"]
    digests = name_digests(PATHS, cases, one)
    assert digests == name_digests(PATHS, cases, other)
    assert len(set(digests)) == 3
    assert name_digests(PATHS, ["c1", "c1", "c3"], one)[:2] == digests[:2]
    assert name_digests(PATHS, ["c1", "c1", "c3"], one)[2] != digests[2]
    vectors[2] = vectors[0]
    (tmp_path / "same").mkdir()
    same = name_digests(PATHS, cases, join(table(tmp_path / "same", PATHS, vectors), PATHS, {}))
    assert same == [digests[0], digests[1], digests[0]]


def test_two_files_of_one_name():
    files = [Path("a/uni.parquet"), Path("b/uni.npz")]
    with pytest.raises(SettingsError, match=r"2 files are called 'uni': a/uni.parquet, b/uni.npz"):
        check_unique_names(files, ["uni", "uni"])
    check_unique_names(files, ["uni", "conch"])


def test_what_is_recorded(tmp_path: Path):
    made = table_of(write_lists(tmp_path / "uni.parquet", PATHS, some_vectors(3), encoder="uni_v1"))
    found = join(made, PATHS, {})
    assert isinstance(found, ImageVectors)
    assert found.facts() == {
        "name": "uni",
        "file": "uni.parquet",
        "digest": made.digest,
        "encoder": "uni_v1",
        "n_features": 4,
    }
    assert str(found) == f"uni by uni_v1 (4 features, uni.parquet, digest {made.digest})"
