"""The engine that uses KerasTuner. No other module of the package imports KerasTuner."""
