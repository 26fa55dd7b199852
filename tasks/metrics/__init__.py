"""Corpus metrics on plain values. Tasks choose among them; an unparseable answer is None and counts as wrong in each."""
