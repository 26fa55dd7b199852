"""A teacher writes chains of thought without seeing the label; what the task's own grader accepts becomes training data."""
