"""`python -m evaluation`: unhinted scores of a checkpoint."""

from evaluation.stage import main

main()
