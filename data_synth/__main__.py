"""`python -m data_synth`: have chains written for the training records of a task, and keep the verified ones."""

from data_synth.stage import main

main()
