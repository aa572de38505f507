"""How the embedded data and checkpoints were made: one file each, runnable as `python -m utils.recipes.<name>`.

A recipe that needs data from elsewhere takes it from the folder given with `--data`; `data/parallel/README.md` and the recipe itself
say which. `training` holds what they share, `files` reads texts, `evaluate` measures, `seal` writes checksums.
Not every recipe has an embedded checkpoint yet: `catalog.toml` says which have.
"""
