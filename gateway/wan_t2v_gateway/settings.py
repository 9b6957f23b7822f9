"""What a gateway is started with."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """Settings of one gateway process.

    Attributes:
        server_url: `host:port` of the Triton server's gRPC endpoint.
        data: folder for the local database and files.
        database_url: a Postgres; empty for the one of this machine, kept in `data`.
        store_url: where finished files go: a URL that obstore knows (`s3://...`), empty for a folder in `data`.
        redirect_s: content is fetched from the bucket itself, by an address that is good for so long; 0: through the
            gateway.
        mark: sign finished files as made by a model: a folder with `chain.pem` and `key.pem`, or `development` for a
            certificate that is made on demand; empty: they stay as the server made them.
        workers: videos that this process asks the server for at a time; 0 for a front without a worker.
        resumes: whether the server keeps generations under way; then the job's id is sent as the key to take it up.
        preview_every: steps from one preview to the next, for a request that does not say.
        heartbeat_s, stalled_s: how often a worker reports, and after how long without a report its jobs go elsewhere.
        poll_s: how often a worker looks for jobs whose pause has passed; it is told of new ones.
        retry_s: first pause after the server was unavailable; it doubles up to a minute.
        longest_outage_s: how long a job waits for an unavailable server in all.
        crashes_allowed: a job whose server died this often while it ran fails.
        keep_s, keep_bytes: age at which a video expires, and how much is kept in all.
        webhook_retry_s: first pause after a webhook that was not taken; it doubles up to an hour, for a day.
        webhook_hosts: hosts that webhooks may reach although their address is private.
        traces_url: an OTLP collector over HTTP that is sent the spans of jobs; empty: none are sent.
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
