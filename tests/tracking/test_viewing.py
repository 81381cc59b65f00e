"""The command that shows the store."""

from __future__ import annotations

import pytest

from bhsearch.tracking.viewing import viewing_command


@pytest.mark.parametrize(
    ("uri", "command"),
    [
        ("", "mlflow ui"),
        ("http://user:secret@host:5000", "python -m webbrowser http://host:5000"),
        ("https://host/mlflow", "python -m webbrowser https://host/mlflow"),
        ("sqlite:////data/my mlflow.db", 'mlflow ui --backend-store-uri "$MLFLOW_TRACKING_URI"'),
        ("postgresql://user:secret@host/db", 'mlflow ui --backend-store-uri "$MLFLOW_TRACKING_URI"'),
    ],
)
def test_the_store_that_runs_are_in_is_opened_and_no_password_shown(monkeypatch, uri, command):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert viewing_command() == command
