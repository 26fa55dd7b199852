"""What hints must beat and what is neither SFT nor RL: a classical model, a regression head, training on bare labels."""
