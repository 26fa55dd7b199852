"""What is learned: records, targets, the answer grammar, one grading path, metrics, readers, and one folder per task."""
