"""Faults that are really made: kills, full disks, dead processes, files that vanish."""
