"""Models: one file per family, one YAML in `conf/model` per size."""
