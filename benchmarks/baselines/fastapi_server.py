"""Serve diffusers with FastAPI in the simplest way: a POST that returns an MP4.

For `benchmarks/baselines/comparison.py`. A pipeline serves one caller at a time, so requests wait for a lock.
"""

import argparse
import sys
import threading
from pathlib import Path

import torch
import uvicorn
from fastapi import FastAPI, Response
from pydantic import BaseModel

from benchmarks.baselines.diffusers_pipeline import Diffusers
from benchmarks.baselines.server_process import HOST, Announcer, end_within
from embedded.ports import free_ports


class VideoRequest(BaseModel):
    """Body of a request."""

    prompt: str
    seed: int
    num_inference_steps: int | None = None


def application(pipeline: Diffusers) -> FastAPI:
    """Build the web application. Its endpoint is not `async`, so it runs in a thread and does not block the server."""
    app, turn = FastAPI(), threading.Lock()

    @app.post("/generate")
    def generate(request: VideoRequest) -> Response:
        with turn:
            video = pipeline.generate(request.prompt, seed=request.seed, steps=request.num_inference_steps)
        return Response(video, media_type="video/mp4")

    return app


def main() -> int:
    """Serve until standard input closes. Returns an exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.baselines.fastapi_server", description=(__doc__ or "")[:80]
    )
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--exported", type=Path, required=True)
    parser.add_argument("--threads", type=int, required=True, help="CPU threads of torch")
    options = parser.parse_args()
    announcer = Announcer()
    torch.set_num_threads(options.threads)
    app = application(Diffusers(options.checkpoint, options.exported))
    [port] = free_ports(1, HOST)
    server = uvicorn.Server(uvicorn.Config(app, host=HOST, port=port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        if not thread.is_alive():
            raise SystemExit("error: uvicorn did not start")
        thread.join(0.05)
    announcer.wait_until_closed({"url": f"http://{HOST}:{port}"})
    server.should_exit = server.force_exit = True
    end_within(10)
    return 0


if __name__ == "__main__":
    sys.exit(main())
