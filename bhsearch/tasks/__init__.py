"""Tasks: what is predicted, and by which loss, metrics and decision rule."""
