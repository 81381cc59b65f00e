"""What a trial says while it computes features."""

from __future__ import annotations

from bhsearch.objectives import feature_progress as module
from bhsearch.objectives.feature_progress import FeatureProgress


def test_the_time_left_counts_the_views_to_come_and_the_speed_no_images_done_before(monkeypatch):
    told = []
    seconds = iter([10.0, 12.0, 14.0])
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(seconds))
    feature_progress = FeatureProgress(told.append)
    feature_progress.views = ["identity", "dihedral1", "dihedral2"]
    progress = feature_progress("vit", "dihedral1")
    for done in (60, 80, 100):  # 60 images were done by a stopped computation
        progress(done, 100)
    assert told == [
        "computing features of vit: 60/100, view 2 of 3",
        "computing features of vit: 80/100, view 2 of 3, 10 images/s, 12 s left",
        "computing features of vit: 100/100, view 2 of 3, 10 images/s, 10 s left",
    ]
