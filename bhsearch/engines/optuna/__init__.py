"""The engine that uses Optuna. No other module of the package imports Optuna."""
