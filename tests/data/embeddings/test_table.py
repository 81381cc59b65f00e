"""Files of vectors become tables with the values that pandas, NumPy and h5py read from them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bhsearch.data.embeddings import blocks, table
from bhsearch.data.embeddings.table import VectorTable, digest_of, table_of
from bhsearch.errors import DataError
from bhsearch.runtime import cache
from tests.data.embeddings.files import some_vectors, write_columns, write_lists, write_slide

KEYS = [f"slides/a/{number}.png" for number in range(6)]


def refused(file: Path) -> str:
    """The message of the error that a file gives, which names the file."""
    with pytest.raises(DataError) as caught:
        table_of(file).require_varying()
    assert str(file) in str(caught.value)
    return str(caught.value)


def test_a_column_of_lists(tmp_path: Path):
    found = table_of(write_lists(tmp_path / "uni.parquet", KEYS, some_vectors(), encoder="uni_v1"))
    expected = np.stack(pd.read_parquet(tmp_path / "uni.parquet")["vector"])
    np.testing.assert_array_equal(found.mapped(), expected)
    assert (found.name, found.encoder, found.n_rows, found.n_features) == ("uni", "uni_v1", 6, 4)
    assert found.keys() == {"path": KEYS}


@pytest.mark.parametrize("kind", [pa.list_(pa.float64()), pa.list_(pa.float32(), 4), pa.large_list(pa.float16())])
def test_every_kind_of_lists(tmp_path: Path, kind: pa.DataType):
    values = some_vectors().astype(kind.value_type.to_pandas_dtype())
    content = pa.table({"id": pa.array(range(6)), "vector": pa.array(values.tolist(), kind)})
    pq.write_table(content.replace_schema_metadata({"model": "conch"}), tmp_path / "x.parquet")
    found = table_of(tmp_path / "x.parquet")
    np.testing.assert_array_equal(found.mapped(), values.astype(np.float32))
    assert (found.encoder, found.keys()) == ("conch", {"id": ["0", "1", "2", "3", "4", "5"]})


def test_a_column_for_each_feature(tmp_path: Path):
    """Whole numbers and text are no features, but may be keys."""
    file = write_columns(tmp_path / "x.parquet", KEYS, some_vectors(), x=list(range(6)))
    found = table_of(file)
    expected = pd.read_parquet(file).drop(columns=["path", "x"]).to_numpy()
    np.testing.assert_array_equal(found.mapped(), expected)
    assert found.keys() == {"path": KEYS, "x": ["0", "1", "2", "3", "4", "5"]}


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_an_archive_of_numpy(tmp_path: Path, order, kind):
    vectors = np.asarray(some_vectors(), kind, order=order)
    np.savez(tmp_path / "x.npz", embeddings=vectors, names=np.array(KEYS), model=np.array("virchow"))
    found = table_of(tmp_path / "x.npz")
    np.testing.assert_array_equal(found.mapped(), vectors.astype(np.float32))
    assert (found.encoder, found.keys()) == ("virchow", {"names": KEYS})


def test_a_compressed_archive(tmp_path: Path):
    np.savez_compressed(tmp_path / "x.npz", embeddings=some_vectors(), names=np.array(KEYS))
    np.testing.assert_array_equal(table_of(tmp_path / "x.npz").mapped(), some_vectors())


def test_a_folder_of_slides(tmp_path: Path):
    """Patches are named by their slide and position."""
    one, two = some_vectors(2, 4, 1), some_vectors(3, 4, 2).astype(np.float16)
    write_slide(tmp_path / "uni" / "s2.h5", two, np.array([[0, 0], [0, 256], [512, 0]]))
    write_slide(tmp_path / "uni" / "s1.h5", one, np.array([[0, 0], [256, 0]]))
    found = table_of(tmp_path / "uni")
    np.testing.assert_array_equal(found.mapped(), np.concatenate([one, two.astype(np.float32)]))
    assert found.keys() == {"patch": ["s1_0_0", "s1_256_0", "s2_0_0", "s2_0_256", "s2_512_0"]}
    assert (found.name, found.encoder) == ("uni", "uni_v1")


@pytest.mark.parametrize("shape", [(4,), (1, 4)])
def test_vectors_of_whole_slides(tmp_path: Path, shape: tuple[int, ...]):
    """TRIDENT keeps the positions of all patches beside the vector of a slide."""
    for number in range(3):
        file = tmp_path / "titan" / f"s{number}.h5"
        write_slide(file, some_vectors(1, 4, number).reshape(shape), np.zeros((7, 2), int), encoder="")
    found = table_of(tmp_path / "titan")
    np.testing.assert_array_equal(found.mapped(), np.concatenate([some_vectors(1, 4, n) for n in range(3)]))
    assert found.keys() == {"patch": ["s0", "s1", "s2"]}


def test_blocks_are_small_and_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With blocks of two rows, every format is read in several parts."""
    vectors = some_vectors(5)
    files = [
        write_lists(tmp_path / "a.parquet", KEYS[:5], vectors),
        write_columns(tmp_path / "b.parquet", KEYS[:5], vectors),
        write_slide(tmp_path / "c.h5", vectors, np.arange(10).reshape(5, 2)),
        tmp_path / "d.npz",
    ]
    np.savez(files[-1], vectors=vectors, names=np.array(KEYS[:5]))
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 2 * 4 * 8)
    written: list[int] = []
    finite = table._finite

    def counted(file, parts):
        for block in finite(file, parts):
            written.append(len(block))
            yield block

    monkeypatch.setattr(table, "_finite", counted)
    for file in files:
        written.clear()
        np.testing.assert_array_equal(table_of(file).mapped(), vectors)
        assert len(written) > 1
        assert max(written) <= 4


def test_a_file_is_converted_once(tmp_path: Path):
    """By its content: a copy under another name, and another process, find the same entry."""
    file = write_lists(tmp_path / "uni.parquet", KEYS, some_vectors(seed=11))
    copy = tmp_path / "copy.parquet"
    copy.write_bytes(file.read_bytes())
    first = table_of(file)
    made = (first.folder / "vectors.f32").stat().st_mtime_ns
    table._table.cache_clear()
    second = table_of(copy)
    assert (second.folder, second.name) == (first.folder, "copy")
    assert (second.folder / "vectors.f32").stat().st_mtime_ns == made
    assert second.folder.parent == cache.cache_root() / "vectors"


def test_another_content_has_another_digest(tmp_path: Path):
    file = write_lists(tmp_path / "uni.parquet", KEYS, some_vectors())
    before = digest_of(file)
    write_lists(file, KEYS, some_vectors(seed=1))
    assert digest_of(file) != before
    write_slide(tmp_path / "uni" / "a.h5", some_vectors(), None)
    before = digest_of(tmp_path / "uni")
    write_slide(tmp_path / "uni" / "b.h5", some_vectors(), None)
    assert digest_of(tmp_path / "uni") != before


def test_equal_vectors_have_equal_digests(tmp_path: Path):
    vectors = some_vectors()
    vectors[4] = vectors[1]
    digests = table_of(write_lists(tmp_path / "x.parquet", KEYS, vectors)).row_digests()
    equal = (digests[:, None] == digests[None]).all(axis=2)
    assert {(i, k) for i, k in np.argwhere(equal).tolist() if i < k} == {(1, 4)}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(tmp_path: Path, value: float):
    vectors = some_vectors()
    vectors[2, 1] = value
    said = refused(write_lists(tmp_path / "x.parquet", KEYS, vectors))
    assert f"row 3 has {value} as feature 2" in said


def test_values_too_large_for_float32(tmp_path: Path):
    vectors = some_vectors().astype(np.float64)
    vectors[0, 0] = 1e300
    assert "row 1 has 1e+300 as feature 1" in refused(write_columns(tmp_path / "x.parquet", KEYS, vectors))


def test_a_missing_vector(tmp_path: Path):
    frame = pd.DataFrame({"path": KEYS, "vector": [*some_vectors()[:5].tolist(), None]})
    frame.to_parquet(tmp_path / "x.parquet")
    assert "the list in row 6 of the column 'vector' has 0 numbers" in refused(tmp_path / "x.parquet")


def test_vectors_of_different_lengths(tmp_path: Path):
    frame = pd.DataFrame({"path": KEYS, "vector": [[1.0, 2.0]] * 5 + [[1.0, 2.0, 3.0]]})
    frame.to_parquet(tmp_path / "x.parquet")
    assert "row 6 of the column 'vector' has 3 numbers and that in row 1 has 2" in refused(tmp_path / "x.parquet")


def test_a_constant_feature(tmp_path: Path):
    vectors = some_vectors()
    vectors[:, 2] = 0.5
    said = refused(write_columns(tmp_path / "x.parquet", KEYS, vectors))
    assert "1 of 4 do: feature 3 (feature 3 is always 0.5)" in said
    assert "'f2'" in said


@pytest.mark.parametrize(
    ("name", "expected"),
    [("x.parquet", "as a Parquet file"), ("x.npz", "as an .npz file"), ("x.h5", "as an HDF5 file")],
)
def test_a_file_of_another_type(tmp_path: Path, name: str, expected: str):
    (tmp_path / name).write_text("path,vector\n")
    assert expected in refused(tmp_path / name)


def test_a_suffix_that_is_unknown(tmp_path: Path):
    (tmp_path / "x.csv").write_text("path,vector\n")
    assert "must be a Parquet, HDF5 or npz file" in refused(tmp_path / "x.csv")


def test_a_file_that_is_not_there(tmp_path: Path):
    assert "There is no file --features" in refused(tmp_path / "x.parquet")


def test_an_empty_folder(tmp_path: Path):
    (tmp_path / "uni").mkdir()
    assert "has no HDF5 files" in refused(tmp_path / "uni")


def test_a_file_without_vectors(tmp_path: Path):
    pd.DataFrame({"path": KEYS, "n": range(6)}).to_parquet(tmp_path / "x.parquet")
    assert "has no vectors" in refused(tmp_path / "x.parquet")


def test_a_file_without_rows(tmp_path: Path):
    pd.DataFrame({"path": [], "f": np.array([], np.float32)}).to_parquet(tmp_path / "x.parquet")
    assert "has no rows" in refused(tmp_path / "x.parquet")


def test_a_file_with_vectors_of_two_encoders(tmp_path: Path):
    frame = pd.DataFrame({"path": KEYS, "one": some_vectors().tolist(), "two": some_vectors().tolist()})
    frame.to_parquet(tmp_path / "x.parquet")
    assert "'one', 'two' are columns of lists" in refused(tmp_path / "x.parquet")


@pytest.mark.parametrize("arrays", [{"names": np.array(KEYS)}, {"a": some_vectors(), "b": some_vectors()}])
def test_an_archive_without_one_matrix(tmp_path: Path, arrays: dict[str, np.ndarray]):
    np.savez(tmp_path / "x.npz", **arrays)
    assert "must have one matrix of vectors" in refused(tmp_path / "x.npz")


def test_an_archive_of_python_objects(tmp_path: Path):
    np.savez(tmp_path / "x.npz", vectors=some_vectors(), names=np.array(KEYS, object))
    assert "'names'" in refused(tmp_path / "x.npz")
    assert "holds Python objects" in refused(tmp_path / "x.npz")


def slides(tmp_path: Path, **second: object) -> str:
    folder = tmp_path / "uni"
    write_slide(folder / "a.h5", some_vectors(), np.arange(12).reshape(6, 2))
    arguments = {"vectors": some_vectors(2), "coords": np.arange(4).reshape(2, 2), **second}
    write_slide(folder / "b.h5", **arguments)
    with pytest.raises(DataError) as caught:
        table_of(folder)
    return str(caught.value)


def test_slides_of_two_encoders(tmp_path: Path):
    assert re.search(r"a\.h5 names 'uni_v1' and .*b\.h5 names 'gigapath'", slides(tmp_path, encoder="gigapath"))


def test_slides_with_different_features(tmp_path: Path):
    assert re.search(r"b\.h5 has 3 features and .*a\.h5 has 4", slides(tmp_path, vectors=some_vectors(2, 3)))


def test_slides_with_different_keys(tmp_path: Path):
    assert "must have the same datasets of keys" in slides(tmp_path, coords=None)


def test_a_slide_without_features(tmp_path: Path):
    import h5py

    with h5py.File(tmp_path / "a.h5", "w") as content:
        content["coords"] = np.zeros((2, 2))
    assert "must have a dataset 'features', as TRIDENT writes it, but its datasets are 'coords'" in refused(
        tmp_path / "a.h5"
    )


def test_a_table_says_what_it_is(tmp_path: Path):
    found = table_of(write_lists(tmp_path / "uni.parquet", KEYS, some_vectors()))
    assert isinstance(found, VectorTable)
    assert found.columns == ("path", "vector")
    assert re.fullmatch(r"[0-9a-f]{24}", found.digest)
