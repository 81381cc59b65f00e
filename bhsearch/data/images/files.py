"""Find the images of a folder by the same rules for training and prediction, and count files that are left out."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from bhsearch.data.dataset import BadFile, LeftOut
from bhsearch.data.images.decode import IMAGE_SUFFIXES
from bhsearch.errors import DataError
from bhsearch.text import plural

NOT_AN_IMAGE = "not a supported image format"
HIDDEN, THUMBNAIL, TRASH, ARCHIVE, SNAPSHOT = "hidden", "thumbnail", "trash", "archive leftover", "snapshot"
CHECKPOINT, MASK = "notebook checkpoint", "mask or annotation"

# Reasons to skip folders that file managers, network disks and archives create, by folder name in lower case.
_FOLDERS = {
    **dict.fromkeys(("@eadir", "@tmp", "thumbs", "thumbnail", "thumbnails", "_thumbs"), THUMBNAIL),
    **dict.fromkeys(
        ("#recycle", "@recycle", "$recycle.bin", "recycler", "recycled", "recycle bin", "lost+found", "trash"), TRASH
    ),
    **dict.fromkeys(("#snapshot", "@snapshot", "~snapshot", "system volume information"), SNAPSHOT),
    **dict.fromkeys(("__macosx", "__pycache__"), ARCHIVE),
    **dict.fromkeys(
        (
            "mask",
            "masks",
            "segmentation",
            "segmentations",
            "groundtruth",
            "groundtruths",
            "ground truth",
            "ground truths",
        ),
        MASK,
    ),
}
_DOT_FOLDERS = {".ipynb_checkpoints": CHECKPOINT, ".@__thumb": THUMBNAIL, ".thumbnails": THUMBNAIL}
_THUMBNAIL_NAME = re.compile(r"(?:thumbnail|thumb)s?")  # QuPath keeps one in each `data/N` folder of a project
_THUMBNAIL_FILES = ("synophoto_", "synofile_", "synovideo_", "thumbs.db", "ehthumbs")
# A word of the first kind in a name always means a mask ("p1_mask.png"). A word of the second kind means an annotation
# only if the annotated image exists ("p1_label.png" and "p1.png"), since "seg" or "label" may be the name of a patient.
_MASK_WORD = r"(?:masks?|segmentations?|ground[ _-]?truths?|gt[ _-]?masks?)"
_ANNOTATION_WORD = (
    r"(?:seg|segm|segmented|labels?|labell?ed|gt|annotations?|annotated|annot?|overlays?|contours?|outlines?|heatmap|binary|"
    r"thumb|thumbnail|preview|checkpoint)"
)
_ANNOTATION_WORD_FOLDERS = re.compile(
    r"(?:seg|segs|labels?|gt|annotations?|annotated|overlays?|contours?|outlines?|heatmaps?|previews?)"
)
_NUMBER = r"(?:[ _.-]*[0-9]{1,4})?"
_MASK_WORD_NAME = re.compile(rf"(?:.*[ _.-])?{_MASK_WORD}{_NUMBER}|{_MASK_WORD}[ _.-].*")
_ANNOTATION_WORD_NAME = re.compile(
    rf"(?P<stem>.+?)[ _.-]+{_ANNOTATION_WORD}{_NUMBER}|{_ANNOTATION_WORD}[ _.-]+(?P<rest>.+)"
)


@dataclass(frozen=True)
class Images:
    """Images of a folder, and entries that are not used.

    Attributes:
        paths: Sorted POSIX paths of the images, relative to the folder.
        bad: Entries that cannot be read, such as names that are not UTF-8 or links to folders outside the data folder,
            sorted by path.
        left_out: Numbers of all other files by suffix and reason.
    """

    paths: tuple[str, ...]
    bad: tuple[BadFile, ...] = ()
    left_out: tuple[LeftOut, ...] = ()


def find_images(root: Path) -> Images:
    """Find the images in a folder, at any depth.

    An image has a suffix in `IMAGE_SUFFIXES` and is not hidden, a thumbnail, a mask, an archive leftover, or in a
    trash, snapshot or checkpoint folder. Links to files are followed. Links to folders inside `root` are skipped, since
    their targets are found directly. Links to folders outside `root`, and empty folders with an image suffix, are
    listed in `Images.bad`.

    Raises:
        DataError: If a folder cannot be listed.
    """
    found: list[str] = []
    bad: list[BadFile] = []
    counts: Counter[tuple[str, str]] = Counter()
    real_root = root.resolve()
    for folder, folders, files in os.walk(root, onerror=_fail):
        prefix = PurePosixPath(Path(folder).relative_to(root).as_posix())
        if not folders and not files and folder.lower().endswith(IMAGE_SUFFIXES):
            bad.append(BadFile(str(prefix), "an empty folder"))
        for name in folders:
            reason, link = _why_no_folder(name), Path(folder, name)
            if reason:
                counts.update((suffix_of(file), reason) for file in _files_below(link))
            elif link.is_symlink() and not link.resolve().is_relative_to(real_root):
                bad.append(BadFile(str(prefix / name), "a link to a folder outside the data folder"))
        folders[:] = [name for name in folders if not _why_no_folder(name)]
        for name in files:
            reason = _why_no_file(name)
            path = str(prefix / name)
            readable = path.encode(errors="replace").decode()
            if reason:
                counts[suffix_of(name), reason] += 1
            elif path == readable:
                found.append(path)
            else:
                bad.append(BadFile(readable, "its name is not UTF-8"))
    masks = annotating(found)
    counts.update((suffix_of(path), MASK) for path in masks)
    return Images(
        tuple(sorted(set(found) - masks)),
        tuple(sorted(bad, key=lambda file: file.path)),
        tuple(
            LeftOut(suffix, reason, counts[suffix, reason]) for suffix, reason in sorted(counts, key=lambda k: k[::-1])
        ),
    )


def annotating(paths: Iterable[str]) -> set[str]:
    """Return the paths of annotations of other images, such as `a/p1_label.png` or `a/labels/p1.png` for `a/p1.png`."""
    by_folder: dict[str, set[str]] = {}
    split = [(path, *_folder_and_stem(path)) for path in paths]
    for _, folder, stem in split:
        by_folder.setdefault(folder, set()).add(stem)
    above = _folders_above(by_folder)
    return {path for path, folder, stem in split if _annotates(folder, stem, by_folder, above)}


def _folder_and_stem(path: str) -> tuple[str, str]:
    """Return the folder and the file stem of a path, in lower case."""
    folder, _, name = path.lower().rpartition("/")
    return folder, name.rpartition(".")[0]


def _folders_above(by_folder: dict[str, set[str]]) -> dict[str, set[str]]:
    """Return the file stems below each parent of an annotation folder, without those in annotation folders."""
    wanted = {
        "/".join(parts[:at])
        for parts in (folder.split("/") for folder in by_folder)
        for at, part in enumerate(parts)
        if _ANNOTATION_WORD_FOLDERS.fullmatch(part)
    }
    stems: dict[str, set[str]] = {folder: set() for folder in wanted}
    for folder, names in by_folder.items() if wanted else ():
        parts = folder.split("/")
        if not any(_ANNOTATION_WORD_FOLDERS.fullmatch(part) for part in parts):
            for at in range(len(parts) + 1):
                if (upper := "/".join(parts[:at])) in wanted:
                    stems[upper] |= names
    return stems


def _annotates(folder: str, stem: str, by_folder: dict[str, set[str]], above: dict[str, set[str]]) -> bool:
    match = _ANNOTATION_WORD_NAME.fullmatch(stem)
    bare = (match["stem"] or match["rest"]) if match else stem
    if match and bare in by_folder[folder]:
        return True
    parts = folder.split("/") if above else []
    first = next((at for at, part in enumerate(parts) if _ANNOTATION_WORD_FOLDERS.fullmatch(part)), None)
    return first is not None and bool({stem, bare} & above["/".join(parts[:first])])


def suffix_of(name: str) -> str:
    """Return the suffix of a file name in lower case with the dot, or `no suffix`."""
    return PurePosixPath(name).suffix.lower() or "no suffix"


def describe_left_out(left_out: Iterable[LeftOut]) -> str:
    """Return one sentence with the numbers, suffixes and reasons of left-out files; empty if there are none."""
    left_out = list(left_out)
    if not left_out:
        return ""
    total = sum(item.count for item in left_out)
    by_reason: dict[str, list[str]] = {}
    for item in sorted(left_out, key=lambda item: -item.count):
        by_reason.setdefault(item.reason, []).append(f"{item.count:,} {item.suffix}")
    listed = "; ".join(f"{', '.join(items)} ({reason})" for reason, items in by_reason.items())
    return f"{plural(total, 'file')} left out: {listed}"


def _why_no_folder(name: str) -> str:
    """Return the reason why a folder with this name is skipped; empty if it is not skipped."""
    key = name.lower()
    if key.startswith(".trash"):
        return TRASH
    if key.startswith("."):
        return _DOT_FOLDERS.get(key, HIDDEN)
    return _FOLDERS.get(key) or _FOLDERS.get(re.sub("[_-]+", " ", key), "")


def _why_no_file(name: str) -> str:
    """Return the reason why a file with this name is left out; empty if the name is that of an image."""
    key = name.lower()
    if key.startswith("._"):
        return ARCHIVE
    if key.startswith("."):
        return HIDDEN
    if key.startswith(_THUMBNAIL_FILES):
        return THUMBNAIL
    if not key.endswith(IMAGE_SUFFIXES):
        return NOT_AN_IMAGE
    if _THUMBNAIL_NAME.fullmatch(key.rpartition(".")[0]):
        return THUMBNAIL
    return MASK if _MASK_WORD_NAME.fullmatch(key.rpartition(".")[0]) else ""


def _files_below(folder: Path) -> Iterator[str]:
    """Iterate over the names of all files below a skipped folder, except in folders that cannot be listed."""
    if not folder.is_symlink():
        for _, _, files in os.walk(folder):
            yield from files


def _fail(error: OSError) -> None:
    raise DataError(
        f"Cannot read the folder {error.filename}: {(error.strerror or '').lower()}. Check its permissions, or give "
        "another folder with --data."
    ) from error
