"""Readers of the published file formats, batching, and the demo world."""
