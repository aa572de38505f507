"""How the embedded data and checkpoints were made: one file each, runnable as `python -m utils.recipes.<name>`.

A recipe that needs data from elsewhere takes it from the folder given with `--data`; `data/parallel/README.md` says which.
"""
