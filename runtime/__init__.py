"""Run folder, manifest, seeds, checkpoints, signals, loggers. This room knows no task and no model."""
