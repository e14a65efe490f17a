"""What drives a task: training, evaluation, checkpoints, processes, logging. Knows no concrete task."""
