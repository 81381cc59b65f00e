"""Optuna's storages: databases and journal files, their URLs, and what is stored in them beside Optuna's own data."""
