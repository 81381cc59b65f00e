"""Source and licence of the known data sets."""

from __future__ import annotations

from dataclasses import dataclass

from bhsearch.data.dataset import Dataset


@dataclass(frozen=True)
class Provenance:
    """Origin of a data set, for the model card.

    Attributes:
        source: Authors and location of the data.
        licence: Licence, and who states it.
    """

    source: str
    licence: str


_UNKNOWN = "not known to bhsearch: ask the provider of the data before you share anything derived from them"
_KNOWN = {
    "breakhis": Provenance(
        "BreakHis: Spanhol, Oliveira, Petitjean and Heutte, IEEE TBME 63(7), 2016; "
        "web.inf.ufpr.br/vri/databases/breast-cancer-histopathological-database-breakhis",
        "CC BY 4.0 according to the documentation of kaiko-ai/eva; the page of the source takes precedence",
    ),
    "idc": Provenance(
        "Patches of invasive ductal carcinoma, in the layout of Janowczyk and Madabhushi, J Pathol Inform 7, 2016",
        _UNKNOWN,
    ),
}
_PHANTOM = Provenance("Drawn by bhsearch; no patient's tissue", "MIT, as bhsearch")


def provenance(dataset: Dataset) -> Provenance:
    """Return the source and licence of a data set; for a user's own data, the path and an unknown licence."""
    if dataset.synthetic:
        return _PHANTOM
    return _KNOWN.get(dataset.layout, Provenance(f"The folder {dataset.root}", _UNKNOWN))
