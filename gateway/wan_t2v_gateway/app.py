"""The gateway as an ASGI application: its routes and its background tasks."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from wan_t2v_client import AsyncTextToVideo, Connection

from wan_t2v_gateway.api import content, events, operation, page, status, videos
from wan_t2v_gateway.api.errors import add_error_handlers
from wan_t2v_gateway.api.openapi import document_limits
from wan_t2v_gateway.api.state import Gateway
from wan_t2v_gateway.database import owners
from wan_t2v_gateway.database.listener import Listener
from wan_t2v_gateway.database.pool import Database
from wan_t2v_gateway.generation.development_certificate import marker_of
from wan_t2v_gateway.generation.marking import Marker
from wan_t2v_gateway.generation.run_video import VideoRunner
from wan_t2v_gateway.queue.lost_jobs import watch_for_lost_jobs
from wan_t2v_gateway.queue.schema import apply_queue_schema
from wan_t2v_gateway.queue.tasks import Queue, queue_app
from wan_t2v_gateway.queue.workers import keep_working
from wan_t2v_gateway.server_limits import LimitsReader
from wan_t2v_gateway.services import Services
from wan_t2v_gateway.settings import Settings
from wan_t2v_gateway.storage.store import Store
from wan_t2v_gateway.tracing import Tracer
from wan_t2v_gateway.webhooks import Deliverer


def gateway_app(settings: Settings, *, open_access: bool) -> FastAPI:
    """Make the application. `settings.database_url` must be set. Raises MarkingError, TracingError, UnknownStore."""

    marker, tracer = marker_of(settings), Tracer.to(settings.traces_url)
    store = Store(settings.store_url, folder=settings.data / "files")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with _running(settings, marker, tracer, store=store, open_access=open_access) as gateway:
            app.state.gateway = gateway
            yield

    app = FastAPI(
        title="Wan2.2 text-to-video, as jobs",
        version="1",
        lifespan=lifespan,
        openapi_url=None,  # api/page.py serves the document, and none of FastAPI's pages
        description='`size` is WIDTHxHEIGHT. Errors are `{"error": {message, type, param, code}}`.',
    )
    add_error_handlers(app)
    for router in (videos.router, content.router, events.router, operation.router, status.router, page.router):
        app.include_router(router)
    document_limits(app)
    return app


@asynccontextmanager
async def _running(
    settings: Settings, marker: Marker | None, tracer: Tracer, *, store: Store, open_access: bool
) -> AsyncIterator[Gateway]:
    """Start database, queue, workers and lost-jobs check, and stop them in reverse order at the end."""
    database = Database(settings.database_url)
    app = queue_app(settings.database_url)
    connection = Connection(settings.server_url)
    async with contextlib.AsyncExitStack() as stack:
        await database.open()
        stack.push_async_callback(database.close)
        await database.wait_until_up()  # the queue's pool tries for a few seconds only, and never again at its start
        await stack.enter_async_context(app.open_async())
        await database.apply_schema()
        await apply_queue_schema(database, app)
        await owners.ensure_local(database)
        stack.push_async_callback(asyncio.to_thread, tracer.close)
        services = Services(settings, database, Queue(app), store, tracer=tracer)
        client = await stack.enter_async_context(AsyncTextToVideo(connection))
        limits = LimitsReader(connection, database)
        await limits.recall()
        listener = Listener(settings.database_url)
        runner = VideoRunner(services, client, connection=connection, marker=marker)
        if marker is not None and settings.workers:
            services.measurements.certificate_end = lambda: marker.expires_at.timestamp()
        tasks = {"run_video": runner, "deliver_webhook": Deliverer(services)}
        gateway = Gateway(services, limits, listener, open_access)
        background = [
            asyncio.create_task(keep_working(app, settings, tasks)),
            asyncio.create_task(watch_for_lost_jobs(app, services)),
            asyncio.create_task(listener.listen()),
            asyncio.create_task(limits.keep_reading()),
        ]
        stop = asyncio.create_task(_stop_at(gateway.stopping, background))
        try:
            yield gateway
        finally:
            gateway.stopping.set()
            await stop
            await runner.close()


async def _stop_at(stopping: asyncio.Event, background: Sequence[asyncio.Task[Any]]) -> None:
    """End the background tasks as soon as the gateway stops, while callers may still get the rest of a file."""
    await stopping.wait()
    for task in background:
        task.cancel()
    await asyncio.gather(*background, return_exceptions=True)
