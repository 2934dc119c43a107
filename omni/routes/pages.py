"""The pages and their files, with the headers that browsers need to trust and refresh them."""

import errno
from pathlib import Path

from aiohttp import web

from omni.errors import NotFound
from omni.routes.app_table import APPS as ALL_APPS
from omni.routes.app_table import App, find_app
from omni.routes.describe import TEXT, Reply, describe
from omni.routes.errors import Handler
from omni.routes.keys import APPS

WEBROOT = Path(__file__).resolve().parent.parent.parent / "webroot"

#: no-cache lets browsers keep files but makes them ask (ETag) each time: modules of two versions
#: never run together. Sockets need ws: and wss: by name, as Safari does not count them to 'self'.
HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": (
        "default-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; media-src 'self' data: blob:; "
        "worker-src 'self' blob:; connect-src 'self' ws: wss:; "
        "object-src 'none'; base-uri 'none'; frame-ancestors 'self'; form-action 'self'"
    ),
    "Permissions-Policy": (
        "microphone=(self), camera=(self), display-capture=(self), screen-wake-lock=(self), "
        "autoplay=(self), geolocation=()"
    ),
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


_TAG = "Pages"
_PAGE = Reply(schema=TEXT, content_types=("text/html",))
#: The demo has pages of their own for phones, and people have bookmarks and QR codes of them. Ours
#: fit any screen; the second fills it (`webroot/pages/omni.js`).
_PHONE, _PHONE_OMNI = "/mobile", "/mobile-omni"
#: Other names of pages, and where they lead.
_LEADS = {
    _PHONE: f"{_PHONE}/",
    _PHONE_OMNI: f"{_PHONE_OMNI}/",
    "/half_duplex_omni": "/omni",  # of the demo's fork Comni: a call with pictures by turns
    "/redoc": "/docs",
    "/favicon.ico": "/static/icon.svg",  # browsers ask for it beside whatever is no page of ours
}


def add_pages(app: web.Application) -> None:
    """Add `/`, the page of each app, what leads there, and `/static/`."""
    app.router.add_get("/", _page_of("home.html"))
    app.router.add_get("/signin", _page_of("signin.html"))
    app.router.add_get("/docs", _page_of("docs.html"))
    app.router.add_get("/admin", _page_of("admin.html"))
    for entry in ALL_APPS:
        app.router.add_get(entry.route, _app_page(entry))
    app.router.add_get(f"{_PHONE}/", _page_of("home.html"))
    app.router.add_get(f"{_PHONE_OMNI}/", _app_page(find_app("omni")))
    for path, target in _LEADS.items():
        app.router.add_get(path, _leading_to(target))
    app.router.add_static("/static/", WEBROOT)


async def careful_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Tell browsers and proxies to guess no types and, unless it says more, to keep nothing."""
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    response.headers.setdefault("Cache-Control", "no-store")


@web.middleware
async def page_headers(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Put `HEADERS` on whatever is served as a file."""
    try:
        response = await handler(request)
    except OSError as exc:
        if exc.errno == errno.ENAMETOOLONG:  # aiohttp asks the disk for whatever stands in the path
            raise NotFound("Not Found") from exc
        raise
    if isinstance(response, web.FileResponse):
        name = request.match_info.get("filename")
        if name is not None and not (WEBROOT / name).is_file():  # aiohttp would say so in no shape
            raise NotFound("Not Found")
        response.headers.update(HEADERS)
    return response


def _page_of(name: str) -> Handler:
    @describe("A page", tag=_TAG, reply=_PAGE, errors=(404,))
    async def get_page(request: web.Request) -> web.StreamResponse:
        path = WEBROOT / "pages" / name
        if not path.is_file():
            raise NotFound("Not Found")
        return web.FileResponse(path)

    return get_page


def _leading_to(target: str) -> Handler:
    @describe(
        "Another name of a page",
        tag=_TAG,
        reply=Reply(status=302, content_types=(), help=f"To {target}"),
    )
    async def lead(request: web.Request) -> web.StreamResponse:
        raise web.HTTPFound(request.rel_url.with_path(target, keep_query=True))

    return lead


def _app_page(entry: App) -> Handler:
    show = _page_of(entry.page)

    @describe(
        f"The page of {entry.name}",
        tag=_TAG,
        reply=(_PAGE, Reply(status=302, content_types=(), help="The app is off: to the home page")),
        errors=(404,),
    )
    async def get_app_page(request: web.Request) -> web.StreamResponse:
        if not request.app[APPS].is_enabled(entry.app_id):
            raise web.HTTPFound("/")
        return await show(request)

    return get_app_page
