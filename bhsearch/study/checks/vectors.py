"""Check that a study of vectors (`--features`) asks for nothing that needs the pixels of images."""

from __future__ import annotations

from bhsearch.config import VECTORS, Settings
from bhsearch.errors import SettingsError
from bhsearch.study.context import FINETUNE


def check_vectors(settings: Settings) -> None:
    """Check that no setting contradicts `--features`.

    Raises:
        SettingsError: If one does.
    """
    by_hand = [name for name in settings.backbones if name.startswith(VECTORS)]
    if by_hand:
        raise SettingsError(
            f"--backbones must be names of networks or their files, but got {by_hand[0]!r}. Give files of vectors with "
            f"--features {by_hand[0].removeprefix(VECTORS)}."
        )
    if not settings.features:
        return
    if settings.backbones != Settings.backbones:
        raise SettingsError(
            f"--features cannot be used with --backbones {','.join(settings.backbones)}: a study takes either vectors "
            "or images. Remove one of the options."
        )
    if settings.regime == FINETUNE:
        raise SettingsError(
            "--features requires --regime frozen or auto, but got --regime finetune: there is no network to fine-tune, "
            "only its vectors."
        )
    if settings.feature_precision == "bf16":
        raise SettingsError("--feature-precision bf16 cannot be used with --features: vectors are used as they are.")
    needing_pixels = {
        "--robustness": settings.robustness,
        "--score-weight-shift": settings.score_weight_shift,
        "--augmentations": settings.augmentations,
    }
    for option, value in needing_pixels.items():
        if value:
            raise SettingsError(
                f"{option} cannot be used with --features: it changes images, and there are only vectors."
            )
