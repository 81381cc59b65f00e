"""Check that an external cohort shares no image and no case with the data of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bhsearch.data.layouts.base import LAYOUTS
from bhsearch.data.layouts.naming import spelling_key
from bhsearch.errors import DataError
from bhsearch.lifecycle.validation.cohort import Cohort
from bhsearch.text import listed, plural

if TYPE_CHECKING:
    from bhsearch.tracking.validation_log import ModelOrigin


def require_external(cohort: Cohort, origin: ModelOrigin, layout: str) -> list[str]:
    """Check that no image or case of a cohort was used to develop or test a model.

    Case names of different data sets may agree by chance, so equal names are refused only if both data sets are the
    same published data set.

    Args:
        cohort: The cohort.
        origin: Origin of the model.
        layout: Layout of the model's data set.

    Returns:
        Sentences about equal case names, and about what could not be checked.

    Raises:
        DataError: If the cohort shares images with the development set or the sealed test set of the model, or cases of
            the same published data set.
    """
    paths, digests = cohort.index.column("path"), cohort.index.column("pixels_digest")
    for part, what in (("development", "the model was developed on"), ("test", "of the model's sealed test")):
        known = set(origin.lineage.get(part, {}).get("pixels_digest", ()))
        shared = [path for path, digest in zip(paths, digests, strict=True) if digest in known]
        if shared:
            raise DataError(
                f"An external cohort must have no image {what}, but {plural(len(shared), 'image')} of "
                f"{len(cohort):,} have the same pixels:\n{listed(shared)}\nRemove them from the cohort."
            )
    if not cohort.index.has_cases:
        return ["The cases of the cohort are unknown, so each image counts as a case. --case-pattern names them."]
    used = {spelling_key(case) for part in origin.lineage.values() for case in part.get("case", ())}
    cases = sorted({case for case in cohort.index.column("case").tolist() if spelling_key(case) in used})
    if not cases:
        return []
    if layout == cohort.index.layout and layout in LAYOUTS and LAYOUTS.get(layout).names_dataset:
        raise DataError(
            f"An external cohort must have no case of the model's data set, but {plural(len(cases), 'case')} of "
            f"{layout} have the same name in both:\n{listed(cases)}\nRemove their images from the cohort."
        )
    return [
        f"The cohort and the model's data set have {plural(len(cases), 'case name')} in common "
        f"({', '.join(cases[:5])}{', ...' if len(cases) > 5 else ''}). If these are the same patients, the result is "
        "not external."
    ]
