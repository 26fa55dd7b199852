"""Rewards: arithmetic on plain values (str, float, frozenset) -> [0, 1], or None where nothing can be scored.

This room imports nothing of ours: no record, no tokenizer, no weight. Weights live in `conf/reward/`.
"""
