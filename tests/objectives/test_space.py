"""The search space is one flat table."""

from __future__ import annotations

from dataclasses import MISSING, fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bhsearch.models.augmentation.cached_views import views_of
from bhsearch.models.augmentation.policies import N_VIEWS, VIEW_POLICIES
from bhsearch.models.training.finetune import FinetuneParams
from bhsearch.objectives.space import (
    LOG10_PENALTY,
    Parameter,
    frozen_space,
    markdown_table,
    space_digest,
    starting_point,
    starting_points,
    views_in,
)

SPACE = frozen_space(("staintex-s", "staintex-l"))
BY_NAME = {row.name: row for row in SPACE}


def points() -> st.SearchStrategy[dict[str, object]]:
    """Any point of the space, its ends included."""

    def values(row: Parameter) -> st.SearchStrategy[object]:
        if row.choices:
            return st.sampled_from(row.choices)
        if row.step:
            return st.sampled_from(row.values)
        return st.integers(int(row.low), int(row.high)) if row.whole else st.floats(row.low, row.high)

    return st.fixed_dictionaries({row.name: values(row) for row in SPACE})


def test_the_space_is_flat_and_every_name_stands_once():
    """Conditional spaces need what Optuna calls experimental, and a column per name in every table."""
    assert len(BY_NAME) == len(SPACE)
    assert all(isinstance(choice, (str, int, bool)) for row in SPACE for choice in row.choices)


@pytest.mark.parametrize("row", SPACE, ids=lambda row: row.name)
def test_a_row_has_choices_or_a_range_and_a_meaning(row):
    assert bool(row.choices) != (row.low < row.high)
    assert row.meaning
    assert len(set(row.choices)) == len(row.choices)
    assert not row.log or row.low > 0


def test_the_digest_of_a_space_knows_values_and_no_prose():
    digest = space_digest(SPACE)
    assert space_digest([replace(row, meaning="in other words", start=None) for row in SPACE]) == digest
    first, second, *rest = SPACE
    at = next(number for number, row in enumerate(SPACE) if row.step)
    for changed in (
        (second, first, *rest),
        (replace(first, choices=first.choices[:1]), second, *rest),
        (replace(first, name="other"), second, *rest),
        *(
            (*SPACE[:at], replace(SPACE[at], **change), *SPACE[at + 1 :])
            for change in ({"low": 0.0}, {"high": 4.0}, {"log": True}, {"whole": True}, {"step": 0.25})
        ),
    ):
        assert space_digest(changed) != digest


def test_only_the_backbones_depend_on_what_can_be_had():
    one, *rest = frozen_space(("a",))
    assert one.choices == ("a",)
    assert tuple(rest) == SPACE[1:]


@pytest.mark.parametrize("backbone", BY_NAME["backbone"].choices)
def test_the_point_to_begin_with_is_in_the_space(backbone):
    point = starting_point(SPACE, backbone)
    assert point["backbone"] == backbone
    assert list(point) == list(BY_NAME)
    assert all(BY_NAME[name].holds(value) for name, value in point.items())


@given(points())
def test_every_point_holds_and_has_its_views(point):
    assert all(BY_NAME[name].holds(value) for name, value in point.items())
    shown = views_of(point["policy"], point["views"])
    assert 1 <= len(shown) <= N_VIEWS


@pytest.mark.parametrize(
    ("row", "inside", "outside"),
    [
        (Parameter("real", "", 0.0, low=-1.0, high=3.5), (-1.0, 0.3, 3.5), (-1.001, 3.501)),
        (Parameter("whole", "", 5, low=5, high=60, whole=True), (5, 17, 60), (4, 61, 17.5)),
        (Parameter("stepped", "", 1.0, low=-1.0, high=3.5, step=0.5), (-1.0, 0.5, 3.5), (-1.5, 0.3, 4.0)),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_range_holds_its_ends_and_what_is_on_its_grid(row, inside, outside):
    assert all(map(row.holds, inside))
    assert not any(map(row.holds, outside))


def test_the_values_of_a_range_with_a_step_are_exact():
    """A penalty from a database must be found again among the values of the path."""
    assert LOG10_PENALTY.values == tuple(k / 2 for k in range(-2, 8))
    assert all(float(str(value)) == value for value in LOG10_PENALTY.values)


@pytest.mark.parametrize("row", [row for row in SPACE if row.choices], ids=lambda row: row.name)
def test_a_choice_that_is_not_listed_does_not_hold(row):
    assert all(row.holds(choice) for choice in row.choices)
    assert not row.holds("nosuch")


@pytest.mark.parametrize("policy", VIEW_POLICIES)
@pytest.mark.parametrize("n_views", BY_NAME["views"].choices)
def test_every_policy_has_every_number_of_views(policy, n_views):
    assert len(views_of(policy, n_views)) == (1 if policy == "none" else n_views)


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (Parameter("views", "", 2, (2, 4, 8)), "2, 4, 8"),
        (Parameter("rate", "", 0.01, low=1e-4, high=0.1, log=True), "0.0001 to 0.1 (log)"),
        (Parameter("dropout", "", 0.0, low=0.0, high=0.6), "0 to 0.6"),
        (Parameter("penalty", "", 0.0, low=-1.0, high=3.5, step=0.5), "-1 to 3.5 in steps of 0.5"),
    ],
)
def test_a_row_reads_as_a_person_would_say_it(row, text):
    assert str(row) == text


def test_the_table_of_the_readme_has_a_row_per_parameter():
    rows = markdown_table(SPACE).splitlines()
    assert len(rows) == len(SPACE) + 2
    assert len({row.count("|") for row in rows}) == 1
    assert all(f"`{row.name}`" in line and row.meaning in line for row, line in zip(SPACE, rows[2:], strict=True))


def test_the_table_is_the_only_place_with_defaults():
    """Three tables of defaults once disagreed on the weight decay and the learning rate."""
    assert [field.name for field in fields(FinetuneParams) if field.default is not MISSING] == []


def test_vectors_have_no_views():
    space = frozen_space(("uni",), has_views=False)
    assert [row.name for row in space] == ["backbone", "hidden_units", "log10_penalty"]
    assert [views_in(point) for point in starting_points(space, "uni")] == [("identity",)] * 2
    assert views_in({"policy": "dihedral", "views": 4}) == views_of("dihedral", 4)


def test_a_space_of_linear_heads_begins_with_one_only():
    space = frozen_space(("uni",), heads="linear")
    assert next(row.choices for row in space if row.name == "hidden_units") == (0,)
    assert len(starting_points(space, "uni")) == 1
    assert space_digest(space) != space_digest(frozen_space(("uni",)))
