"""An experiment that was deleted in the user interface: the command ends at once, and leaves nothing that waits."""

from __future__ import annotations

import pytest

from tests.studies import Store, arguments, optuna_trials, run


@pytest.mark.faults
def test_a_study_whose_experiment_is_deleted_is_refused_and_goes_on_when_it_is_restored(tmp_path):
    assert run(tmp_path, *arguments(trials=2)).returncode == 0
    client = Store(tmp_path).client
    experiment = Store(tmp_path).parent().info.experiment_id
    client.delete_experiment(experiment)
    refused = run(tmp_path, *arguments(trials=3))
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert "is deleted. Restore it" in " ".join(refused.stderr.split())
    assert not (tmp_path / "outbox").exists()
    assert len(optuna_trials(tmp_path)) == 2
    client.restore_experiment(experiment)
    assert run(tmp_path, *arguments(trials=3)).returncode == 0
    assert len(Store(tmp_path).children()) == 3
