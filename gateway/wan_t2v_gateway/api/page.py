"""The page at `/`, its modules and the OpenAPI document.

The page loads nothing from other sites; its content security policy enforces that. Its origin keeps the caller's key.
So no other page is served here, such as FastAPI's documentation, which runs scripts of another site.
"""

from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, JSONResponse

from wan_t2v_gateway.api.errors import ApiError

router = APIRouter(include_in_schema=False)
_FOLDER = Path(__file__).parents[1] / "page"
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
_FILES = {path.name: path for path in _FOLDER.iterdir() if path.suffix in _TYPES}
_HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-cache",
}


@router.head("/")
@router.get("/", response_class=FileResponse)
async def index() -> FileResponse:
    """Return the page."""
    return await asset("index.html")


@router.get("/page/{name}", response_class=FileResponse)
async def asset(name: str) -> FileResponse:
    """Return one of the page's files."""
    if name not in _FILES:
        raise ApiError(404, "there is no such file")
    path = _FILES[name]
    return FileResponse(path, media_type=_TYPES[path.suffix], headers=_HEADERS)


@router.get("/openapi.json", response_class=JSONResponse)
async def openapi(request: Request) -> JSONResponse:
    """Return the OpenAPI document, with the server's limits if they are known."""
    return JSONResponse(request.app.openapi(), headers=_HEADERS)
