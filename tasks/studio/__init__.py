"""The built-in task: short rendered clips whose sentiment comes from words, voice and face together."""
