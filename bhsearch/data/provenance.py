"""Where data come from and under which licence, as far as their layout tells."""

from __future__ import annotations

from dataclasses import dataclass

from bhsearch.data.dataset import Dataset


@dataclass(frozen=True)
class Provenance:
    """What a model card says of its data's origin.

    Attributes:
        source: Who made the data, and where.
        licence: Its licence, and who says so.
    """

    source: str
    licence: str


_UNKNOWN = "not known to bhsearch: ask whoever gave you the data before you pass on anything made from them"
_KNOWN = {
    "breakhis": Provenance(
        "BreakHis: Spanhol, Oliveira, Petitjean and Heutte, IEEE TBME 63(7), 2016; "
        "web.inf.ufpr.br/vri/databases/breast-cancer-histopathological-database-breakhis",
        "CC BY 4.0 according to the documentation of kaiko-ai/eva; what the source's own page says decides",
    ),
    "idc": Provenance(
        "Patches of invasive ductal carcinoma, in the layout of Janowczyk and Madabhushi, J Pathol Inform 7, 2016",
        _UNKNOWN,
    ),
}
_PHANTOM = Provenance("Drawn by bhsearch; no patient's tissue", "MIT, as bhsearch")


def provenance(dataset: Dataset) -> Provenance:
    """The origin of a data set; of a user's own folder no more than where it lies."""
    if dataset.synthetic:
        return _PHANTOM
    return _KNOWN.get(dataset.layout, Provenance(f"The folder {dataset.root}", _UNKNOWN))
