"""Licences of weights: whether they permit commercial use, as far as their names tell.

Publishers name licences freely, so that no list is complete. A name is taken for non-commercial if it says so, for
permissive if it is one of a few well-known names, and for unknown otherwise. An unknown licence is never called free.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise

UNKNOWN = "unknown"
NO_WEIGHTS = "no weights"  # of backbones without weights of others, which need no licence
# Names as publishers and Keras's documentation spell them, in lower case, without separators and `_FILLERS`.
_PERMISSIVE = {
    "mit", "apache", "apache2", "apache20", "bsd", "bsd2clause", "bsd3clause", "isc", "cc0", "cc010", "ccby30",
    "ccby40", "unlicense",
}  # fmt: skip
_FILLERS = ("licence", "license", "version")
_BETWEEN = "; "  # licences of encoders that are joined


def licence_text(name: str, needs_weights: bool) -> str:
    """Return a licence as text, which is never empty.

    Args:
        name: Name of the licence; empty if it is not known.
        needs_weights: Whether the backbone has weights of others.
    """
    return name.strip() or (UNKNOWN if needs_weights else NO_WEIGHTS)


def joint_licence(licences: Iterable[str]) -> str:
    """Return the licences of several backbones as one text, each once; those without weights have none.

    Args:
        licences: Texts of `licence_text`.
    """
    found = list(dict.fromkeys(licence for licence in licences if licence != NO_WEIGHTS))
    return _BETWEEN.join(found) or NO_WEIGHTS


def is_non_commercial(licence: str) -> bool | None:
    """Return whether a licence forbids commercial use; None if its name does not tell.

    Words are compared, not letters, since `nc` is also a part of `licence`. Of several licences, one that forbids it is
    enough.

    Args:
        licence: Text of `licence_text`, such as `cc-by-nc-nd-4.0`, or of `joint_licence`.
    """
    if _BETWEEN in licence:
        each = {is_non_commercial(one) for one in licence.split(_BETWEEN)}
        return next((answer for answer in (True, None) if answer in each), False)
    words = [word for word in re.findall(r"[a-z]+|[0-9]+", licence.lower()) if word not in _FILLERS]
    pairs = {first + second for first, second in pairwise(words)}
    if "nc" in words or "noncommercial" in {*words, *pairs}:
        return True
    if licence == NO_WEIGHTS or "".join(words) in _PERMISSIVE:
        return False
    return None


def consequence(backbone: str, licence: str) -> str:
    """Return a sentence on how the licence of a backbone limits a model; empty if it permits commercial use.

    Args:
        backbone: Name of the backbone.
        licence: Text of `licence_text`.
    """
    non_commercial = is_non_commercial(licence)
    if non_commercial:
        return (
            f"Not for commercial use: the licence of the backbone {backbone}, {licence}, is non-commercial, and so is "
            "this model."
        )
    if non_commercial is not None:
        return ""
    if licence == UNKNOWN:
        return f"Not for commercial use as long as the licence of the backbone {backbone} is unknown."
    return (
        f"Not for commercial use unless the licence of the backbone {backbone}, {licence}, permits it, which its name "
        "does not tell."
    )
