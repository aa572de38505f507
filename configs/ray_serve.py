"""The model of utils/serve.py behind Ray Serve, which can spread it over a cluster. Notebook 12 names it; `make test` does not run it.

    pip install "ray[serve]"                            tried with 2.60.0
    python configs/ray_serve.py [MODEL]                 until Ctrl-C; then POST to http://127.0.0.1:8000/predict
    RAY_ADDRESS=auto python configs/ray_serve.py MODEL  on a node of a running cluster: not tried

On a cluster, MODEL must be the name of a model on the Hub, or a folder that all nodes share.
"""

# ruff: noqa: E402
import asyncio
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
alone = "RAY_ADDRESS" not in os.environ
if alone:  # before the import: on this machine, Ray's processes talk through 127.0.0.1, and nobody else reaches them
    os.environ |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}

import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from utils.catalog import checkpoint
from utils.serve import MAX_WAITING, Gate, Refused, Stars, read_text
from utils.workshop import device


@serve.deployment(
    num_replicas=1,  # copies of the model, wherever there is room: this is the number to raise
    ray_actor_options={"num_cpus": 1},  # of each copy; "num_gpus": 1 gives it a GPU
    max_ongoing_requests=MAX_WAITING,  # inside a copy
    max_queued_requests=MAX_WAITING,  # before the copies; beyond that Ray answers 503
)
class Service:
    """What `Stars` and `Gate` do, in Ray's words."""

    def __init__(self, model: str) -> None:
        self.stars = Stars(model)
        self.stars.setup(device().type)

    @serve.batch(max_batch_size=16, batch_wait_timeout_s=0.01)
    async def rate(self, texts: list[str]) -> list:
        return await asyncio.to_thread(self.stars.predict, texts)  # meanwhile, the next batch gathers

    async def __call__(self, request: Request) -> Response:
        if request.method != "POST":
            return JSONResponse({"detail": "Method Not Allowed"}, 405)
        try:
            text = read_text(await Gate.read(request.receive))
        except Refused as refused:
            return JSONResponse({"detail": str(refused)}, refused.status)
        return JSONResponse(self.stars.encode_response(await self.rate(text)))


if __name__ == "__main__":
    model = sys.argv[1] if len(sys.argv) > 1 else checkpoint("reviews-stars")
    options = {"include_dashboard": False} if alone else {}
    ray.init(**options, runtime_env={"py_modules": [str(ROOT / "utils")]})  # our code travels to every node
    serve.start(http_options={"host": "127.0.0.1", "port": 8000})
    try:
        serve.run(Service.bind(model), route_prefix="/predict", blocking=True)
    finally:
        serve.shutdown()
        ray.shutdown()
