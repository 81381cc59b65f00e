from __future__ import annotations

import errno
import hashlib
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict

from bhsearch.data.layouts import breakhis
from bhsearch.data.synthetic import phantom
from bhsearch.data.synthetic.phantom import (
    Parameters,
    draw_image,
    list_images,
    parse_spec,
    phantom_dataset,
    phantom_folder,
)
from bhsearch.errors import DataError, PlaceError

SMALL = "phantom:cases=5,images=2"


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """Provide an empty cache for one test."""
    monkeypatch.setenv("BHSEARCH_CACHE", str(tmp_path))
    return tmp_path


# --- the spec


def test_the_bare_word_means_the_defaults():
    assert parse_spec("phantom") == Parameters()
    assert Parameters().name == "phantom"


@given(
    st.builds(
        Parameters,
        cases=st.integers(2, 10_000),
        images=st.integers(1, 100),
        difficulty=st.integers(0, 1000).map(lambda thousandths: thousandths / 1000),
        seed=st.integers(0, 2**31 - 1),
    )
)
def test_a_spec_gives_back_what_was_written_into_it_and_the_name_tells_phantoms_apart(parameters):
    text = f"cases={parameters.cases},images={parameters.images},seed={parameters.seed}"
    assert parse_spec(f"phantom:{text},difficulty={parameters.difficulty:.3f}") == parameters
    assert (parameters.name == "phantom") == (parameters == Parameters())
    assert not set(parameters.name) & set("/:.% ")


def test_the_name_holds_what_differs_from_the_defaults():
    assert parse_spec("phantom:difficulty=0.7,cases=120,images=6").name == "phantom-cases120-difficulty0_7"


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("phantom:", "key=value"),
        ("phantom:case=3", "'case=3'"),
        ("phantom:cases", "'cases'"),
        ("phantom:cases=20,", "''"),
        ("phantom: cases=20", "' cases=20'"),
        ("phantom:cases=20,cases=30", "has cases twice"),
        ("phantom:cases=1", "from 2 to 10000, but got '1'"),
        ("phantom:cases=10001", "'10001'"),
        ("phantom:cases=2e1", "whole number"),
        ("phantom:cases=1_0", "'1_0'"),
        ("phantom:images=0", "from 1 to 100"),
        ("phantom:images=-3", "'-3'"),
        ("phantom:difficulty=1.01", "from 0 to 1, but got '1.01'"),
        ("phantom:difficulty=nan", "'nan'"),
        ("phantom:difficulty=", "''"),
        ("phantom:seed=2147483648", "'2147483648'"),
        ("phantoms", "'phantoms'"),
    ],
)
def test_a_bad_spec_is_refused_with_what_broke_the_rule(spec, said):
    with pytest.raises(DataError) as error:
        parse_spec(spec)
    assert said in str(error.value)


def test_an_unknown_key_lists_the_known_ones_with_their_ranges():
    with pytest.raises(DataError, match=r"(?s)cases=76  \(2 to 10000\).*difficulty=0.5  \(0 to 1\)"):
        parse_spec("phantom:size=3")


# --- the plan


@pytest.mark.parametrize("parameters", [Parameters(), Parameters(cases=9, images=1, seed=4), Parameters(2, 1)])
def test_paths_are_breakhis_names_in_the_original_tree(parameters):
    planned = list_images(parameters)
    assert len({image.path for image in planned}) == len(planned)
    for image in planned:
        *folders, slide_folder, magnification, file = image.path.split("/")
        name = breakhis.parse(file)
        assert (name.label, name.case, name.magnification) == (image.label, str(90_000 + image.case), 100)
        assert folders[:4] == ["histology_slides", "breast", ("benign", "malignant")[image.label], "SOB"]
        assert slide_folder == name.slide_key.replace("-", "_", 1)
        assert magnification == "100X"


def test_by_default_there_are_enough_cases_to_seal_a_fifth_and_keep_sixty():
    planned = list_images(Parameters())
    label_of = {image.case: image.label for image in planned}
    counts = Counter(image.case for image in planned)
    assert len(label_of) == 76
    assert Counter(label_of.values()) == {0: 31, 1: 45}
    assert set(counts.values()) == {3, 4, 5, 6, 7, 8, 9}
    assert 5.5 < np.mean(list(counts.values())) < 6.5


def test_some_cases_of_both_classes_lie_on_two_slides():
    slides: dict[str, set[str]] = {}
    for image in list_images(Parameters()):
        name = breakhis.parse(Path(image.path).name)
        slides.setdefault(name.case, set()).add(name.slide)
    paired = {case: found for case, found in slides.items() if len(found) > 1}
    assert len(paired) == 9
    assert all(found == {f"{case}AB", f"{case}CD"} for case, found in paired.items())
    assert {int(case) % 5 in (0, 3) for case in paired} == {True, False}


def test_a_larger_phantom_begins_with_the_smaller_one():
    small, large = list_images(Parameters(cases=10)), list_images(Parameters(cases=30))
    assert large[: len(small)] == small
    assert np.array_equal(draw_image(Parameters(cases=10), small[3]), draw_image(Parameters(cases=30), large[3]))


@given(st.integers(2, 60), st.integers(1, 12), st.integers(0, 2**31 - 1))
def test_every_case_has_images_and_both_classes_are_there(cases, images, seed):
    planned = list_images(Parameters(cases=cases, images=images, seed=seed))
    counts = Counter(image.case for image in planned)
    assert sorted(counts) == list(range(cases))
    assert all((images + 1) // 2 <= count <= max(1, images * 3 // 2) for count in counts.values())
    assert {image.label for image in planned} == {0, 1}


# --- the pixels


def test_pixels_are_the_same_on_every_machine():
    # A change of these digests is a change of everybody's data: raise phantom._VERSION with it.
    planned = list_images(Parameters())
    digest = hashlib.sha256(b"".join(draw_image(Parameters(), planned[at]).tobytes() for at in (0, 100, 200, 300)))
    assert digest.hexdigest()[:16] == "ea97cf3b34236756"


def test_seed_case_image_and_difficulty_each_change_the_pixels():
    base = Parameters()
    planned = list_images(base)
    other_case = next(image for image in planned if image.case == 1)
    drawn = [
        draw_image(base, planned[0]),
        draw_image(base, planned[1]),
        draw_image(base, other_case),
        draw_image(Parameters(seed=1), planned[0]),
        draw_image(Parameters(difficulty=0.1), planned[0]),
    ]
    assert len({pixels.tobytes() for pixels in drawn}) == len(drawn)


def test_at_difficulty_one_an_image_does_not_depend_on_its_label():
    parameters = Parameters(difficulty=1.0)
    benign = phantom.SyntheticImage("", 0, 3, 1)
    malignant = phantom.SyntheticImage("", 1, 3, 1)
    assert np.array_equal(draw_image(parameters, benign), draw_image(parameters, malignant))
    assert not np.array_equal(draw_image(Parameters(), benign), draw_image(Parameters(), malignant))


# --- the cache and the index


def test_the_index_is_a_synthetic_data_set_with_cases(cache):
    dataset = phantom_dataset(SMALL)
    assert (dataset.name, dataset.layout) == ("phantom-cases5-images2", "phantom")
    assert dataset.synthetic
    assert dataset.has_cases
    assert dataset.root.is_relative_to(cache / "phantom")
    planned = {image.path: image for image in list_images(parse_spec(SMALL))}
    assert dataset.table["path"].tolist() == sorted(planned)
    assert dataset.labels.tolist() == [planned[path].label for path in dataset.table["path"]]
    assert dataset.column("case").tolist() == [str(90_000 + planned[path].case) for path in dataset.table["path"]]
    assert dataset.table["pixels_digest"].is_unique
    first = dataset.table["path"][0]
    assert np.array_equal(np.asarray(Image.open(dataset.root / first)), draw_image(parse_spec(SMALL), planned[first]))


def test_the_second_call_draws_nothing(cache, monkeypatch):
    first = phantom_dataset(SMALL)
    monkeypatch.setattr(phantom, "draw_image", None)
    assert phantom_dataset(SMALL).fingerprint == first.fingerprint


def test_other_parameters_lie_elsewhere(cache):
    folders = {
        phantom_folder(parse_spec(f"phantom:cases=2,images=1{more}")) for more in ("", ",seed=1", ",difficulty=0")
    }
    assert len(folders) == 3


def test_drawing_says_how_far_it_is_and_an_entry_that_is_there_says_nothing(cache):
    said = []
    phantom_folder(parse_spec(SMALL), lambda done, total: said.append((done, total)))
    n_images = len(list_images(parse_spec(SMALL)))
    assert said == [(done, n_images) for done in range(1, n_images + 1)]
    phantom_folder(parse_spec(SMALL), lambda done, total: pytest.fail("nothing is drawn"))


@pytest.mark.parametrize("damage", ["missing", "empty", "stranger"])
def test_an_incomplete_entry_is_drawn_again(cache, damage):
    parameters = parse_spec(SMALL)
    folder = phantom_folder(parameters)
    file = next(folder.rglob("*.png"))
    whole = file.read_bytes()
    if damage == "missing":
        file.unlink()
    elif damage == "empty":
        file.write_bytes(b"")
    else:
        file.with_name("SOB_B_A-14-1-100-001.png").write_bytes(whole)
    assert phantom_folder(parameters) == folder
    assert file.read_bytes() == whole
    assert len(list(folder.rglob("*.png"))) == len(list_images(parameters))
    assert [entry.name for entry in (cache / "phantom").iterdir() if entry.is_dir()] == [folder.name]


@pytest.mark.parametrize(
    ("failure", "raised"),
    [
        (MemoryError(), MemoryError),
        (OSError(errno.ENOSPC, "no space left"), PlaceError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_nothing_half_made_is_left_when_drawing_fails(cache, monkeypatch, failure, raised):
    def failing(parameters, picture):
        if picture.case == 3:
            raise failure
        return np.zeros((4, 4, 3), np.uint8)

    monkeypatch.setattr(phantom, "draw_image", failing)
    with pytest.raises(raised):
        phantom_folder(parse_spec(SMALL))
    assert [entry for entry in (cache / "phantom").iterdir() if entry.is_dir()] == []


def test_a_cache_that_cannot_be_written_is_said(cache, monkeypatch):
    (cache / "file").write_text("no folder")
    monkeypatch.setenv("BHSEARCH_CACHE", str(cache / "file"))
    with pytest.raises(PlaceError, match="BHSEARCH_CACHE"):
        phantom_folder(parse_spec(SMALL))


def test_two_at_once_give_one_whole_entry(cache):
    folders: list[Path] = []
    barrier = threading.Barrier(2)

    def ask() -> None:
        barrier.wait()
        folders.append(phantom_folder(parse_spec(SMALL)))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(folders)) == 1
    assert [entry.name for entry in (cache / "phantom").iterdir() if entry.is_dir()] == [folders[0].name]
    assert phantom_dataset(SMALL).root == folders[0]


# --- what it is for: an image-level split leaks, a case-level split does not, and the label can be learned


def traits(pixels: np.ndarray) -> np.ndarray:
    """Colour, its spread, how it changes over 1 to 8 pixels, how much is nucleus and how dark. Shape (22,)."""
    density = -np.log((pixels.astype(float) + 1) / 256)
    changes = [np.abs(density[step:] - density[:-step]).mean(axis=(0, 1)) for step in (1, 2, 4, 8)]
    nuclei = np.quantile(density[:, :, 0], (0.5, 0.8, 0.9, 0.95))
    return np.concatenate([density.mean(axis=(0, 1)), density.std(axis=(0, 1)), *changes, nuclei])


@dataclass(frozen=True)
class Sample:
    """Three images of each of the first 60 cases, so that every image and every case counts the same in what follows.

    Attributes:
        features: Standardised traits. Shape (180, 22).
        label: 0 benign, 1 malignant. Shape (180,).
        case: Number of the case. Shape (180,).
    """

    features: np.ndarray
    label: np.ndarray
    case: np.ndarray

    def nearest_neighbour_auc(self, *, by: str) -> float:
        """AUC of the label of the most similar image: any other image, or one of another case only."""
        distance = np.square(self.features[:, None] - self.features[None]).sum(axis=2)
        unit = self.case if by == "case" else np.arange(len(self.case))
        distance[unit[:, None] == unit[None]] = np.inf
        return float(roc_auc_score(self.label, self.label[distance.argmin(axis=1)]))

    def linear_auc(self, n_features: int, *, by: str) -> float:
        """AUC of out-of-fold predictions of a linear model on the first features; mean over three divisions."""
        unit = self.case if by == "case" else np.arange(len(self.case))
        scores = []
        for seed in range(3):
            folds = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
            probability = cross_val_predict(
                LogisticRegression(C=1.0, max_iter=2000),
                self.features[:, :n_features],
                self.label,
                groups=unit,
                cv=folds,
                method="predict_proba",
            )
            scores.append(roc_auc_score(self.label, probability[:, 1]))
        return float(np.mean(scores))


def sample(difficulty: float) -> Sample:
    parameters = Parameters(cases=60, difficulty=difficulty)
    drawn = [image for image in list_images(parameters) if image.image < 3]
    features = np.stack([traits(draw_image(parameters, image)) for image in drawn])
    features = (features - features.mean(axis=0)) / features.std(axis=0)
    return Sample(features, np.array([image.label for image in drawn]), np.array([image.case for image in drawn]))


@pytest.fixture(scope="module")
def default_sample() -> Sample:
    return sample(0.5)


def test_where_the_label_shows_in_nothing_an_image_level_split_still_finds_it_and_a_case_level_split_does_not():
    # The image most like another is one of the same case: whoever has seen that one knows the label.
    blind = sample(1.0)
    assert blind.nearest_neighbour_auc(by="image") > 0.8
    assert abs(blind.nearest_neighbour_auc(by="case") - 0.5) < 0.1


def test_at_the_default_difficulty_an_image_level_split_leaks_too(default_sample):
    assert default_sample.nearest_neighbour_auc(by="image") > default_sample.nearest_neighbour_auc(by="case") + 0.15
    assert default_sample.linear_auc(22, by="image") > default_sample.linear_auc(22, by="case") + 0.03


def test_a_good_configuration_beats_a_bad_one_and_is_not_perfect(default_sample):
    good, mean_colour = default_sample.linear_auc(22, by="case"), default_sample.linear_auc(3, by="case")
    assert 0.8 < good < 0.97
    assert mean_colour < good - 0.12
