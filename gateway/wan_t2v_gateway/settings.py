"""Settings of a gateway."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Settings:
    """Settings of one gateway process.

    Attributes:
        server_url: `host:port` of the Triton server's gRPC endpoint.
        data: folder for the local database and files.
        database_url: URL of a Postgres; empty for a local one in `data`.
        store_url: store of finished files, a URL that obstore knows (`s3://...`); empty for a folder in `data`.
        redirect_s: validity in seconds of signed URLs by which callers fetch files from the bucket; 0 serves the files
            through the gateway.
        mark: sign finished files as made by a model: a folder with `chain.pem` and `key.pem`, or `development` for a
            certificate that is made on demand; empty for unsigned files.
        workers: number of videos that this process generates at a time; 0 for a front end without a worker.
        resumes: whether the server keeps checkpoints; then the job's id is sent as the idempotency key.
        preview_every: steps between previews, for a request that does not set it; see `field_defaults`.
        heartbeat_s, stalled_s: seconds between a worker's reports, and seconds without one until its jobs are requeued.
        poll_s: seconds between a worker's polls for jobs whose pause has passed; new jobs are notified.
        retry_s: first pause in seconds after the server was unavailable; it doubles up to a minute.
        longest_outage_s: longest total time of a job's refused attempts and the pauses after them, in seconds. While
            no server is ready a job is not tried, and its time in the queue does not count.
        crashes_allowed: number of server crashes during a job at which the job fails.
        keep_s: age in seconds at which a video expires. It is recorded when the job ends.
        keep_bytes: limit on the bytes of all owners' videos together; the oldest expire first. Every gateway of a
            database removes by its own limit, so the smallest one counts.
        webhook_retry_s: first pause in seconds after a failed webhook; it doubles up to an hour, for a day.
        webhook_hosts: private hosts that webhooks may reach.
        traces_url: OTLP collector over HTTP for the spans of jobs; empty for none.
    """

    server_url: str = "127.0.0.1:8001"
    data: Path = Path("out/gateway")
    database_url: str = ""
    store_url: str = ""
    redirect_s: float = 0.0
    mark: str = ""
    workers: int = 1
    resumes: bool = False
    preview_every: int = 2
    heartbeat_s: float = 3.0
    stalled_s: float = 15.0
    poll_s: float = 2.0
    retry_s: float = 1.0
    longest_outage_s: float = 24 * 3600.0
    crashes_allowed: int = 3
    keep_s: float = 7 * 24 * 3600.0
    keep_bytes: int = 20 * 2**30
    webhook_retry_s: float = 5.0
    webhook_hosts: tuple[str, ...] = ()
    traces_url: str = ""

    @property
    def field_defaults(self) -> dict[str, Any]:
        """Fields that the gateway sends for a request that does not set them, in place of the server's defaults."""
        return {"preview_every": self.preview_every}
