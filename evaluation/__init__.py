"""How good is it: run a model on a split, score predictions, compare runs, report."""
