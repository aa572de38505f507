"""How the embedded data and checkpoints were made: one file each, runnable as `python -m utils.recipes.<name>`.

A recipe that needs data from elsewhere loads it from the Hub by name, or from the folder given with `--data`.
"""
