"""The shipped settings: one YAML file per task, read by `mmnas.config`."""
