"""A stand-in for the Hugging Face Hub on this machine, to rehearse pushing and pulling. It is not the Hub: no web pages, no git,
no discussions, no running Spaces, and no protection from people who can read its folder.

    python -m local_hub --folder DIR --port 5005

The client libraries use it unchanged once `HF_ENDPOINT` names it (and `HF_HUB_DISABLE_XET=1`: it speaks the older LFS protocol)
before they are imported. Notebooks that push start it through `utils.workshop`; tests fill it with models for hub mode.
"""

from local_hub.server import LocalHub, rehearsal
from local_hub.store import File, Store

__all__ = ["File", "LocalHub", "Store", "rehearsal"]
