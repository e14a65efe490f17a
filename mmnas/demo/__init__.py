"""The demo world, a small synthetic data set in the real file formats, and the demos on it."""
