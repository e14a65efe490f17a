"""Readers of the published file formats, and samplers."""
