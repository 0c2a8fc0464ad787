"""A store at an address reads as one in a folder does, or says what is wrong."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from worldmodel.core.errors import UserError
from worldmodel.data import EpisodeWriter, StoreError, TrajectoryStore
from worldmodel.data.__main__ import main
from worldmodel.data.store import remote as remote_module
from worldmodel.data.store.files import UnreachableError, address_in
from worldmodel.data.store.recovery import recover
from worldmodel.data.store.remote import cache_folder

pytest.importorskip("aiohttp")


class Handler(SimpleHTTPRequestHandler):
    """Answers with the files of a folder, or with half of one."""

    def __init__(self, *arguments: Any, owner: Server) -> None:
        self.owner = owner
        super().__init__(*arguments, directory=str(owner.root))

    def do_GET(self) -> None:
        self.owner.asked.append(self.path)
        if self.owner.cut and self.owner.cut in self.path:
            content = (self.owner.root / self.path.lstrip("/")).read_bytes()
            self.answer(200, content[: len(content) // 2], announced=len(content))
        elif self.owner.endless and self.owner.endless in self.path:
            self.send_response(200)  # without a length: until the other side hangs up
            self.end_headers()
            with contextlib.suppress(OSError):
                while not self.owner.is_stopped.wait(self.owner.pause_s):
                    self.wfile.write(self.owner.part)
                    self.owner.sent += len(self.owner.part)
        else:
            super().do_GET()

    def answer(self, status: int, content: bytes, announced: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content) if announced is None else announced))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


class BucketHandler(Handler):
    """What of S3's protocol reading takes: objects, lists that are empty, and its own error."""

    def do_GET(self) -> None:
        if "list-type=" in self.path:
            self.answer(200, b"<ListBucketResult><KeyCount>0</KeyCount></ListBucketResult>")
        elif not Path(self.translate_path(self.path)).is_file():
            self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        else:
            super().do_GET()


class Server:
    """A web server of the folder `root`: counts requests, and can be told to send less than it announces."""

    def __init__(self, root: Path, handler: type[Handler] = Handler) -> None:
        self.root, self.asked, self.cut, self.endless = root, [], "", ""
        self.part, self.pause_s, self.sent, self.is_stopped = bytes(65_536), 0.0, 0, threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, owner=self))
        self.origin = f"http://127.0.0.1:{self._server.server_port}"
        self.address = f"{self.origin}/data.zarr"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        self.is_stopped.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server(store: TrajectoryStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    monkeypatch.setenv("WORLDMODEL_CACHE", str(tmp_path / "cache"))
    made = Server(store.path.parent)
    yield made
    made.stop()


def cached() -> list[str]:
    return [file.name for file in cache_folder().rglob("*") if file.is_file() and file.name.startswith(("c.", "fetch"))]


def test_it_reads_as_the_folder_does_and_asks_once(server: Server, store: TrajectoryStore, caplog) -> None:
    remote = TrajectoryStore.open(f"{server.address}/")
    assert (remote.identity, remote.name, remote.is_remote) == (store.identity, server.address, True)
    for number in range(5):
        for name in ("images/camera", "action", "proprio", "state"):
            np.testing.assert_array_equal(remote.episode(number).columns[name], store.episode(number).columns[name])
    chunks = [path for path in server.asked if "/c." in path]
    assert len(chunks) == len(set(chunks)) == 14
    server.asked.clear()
    TrajectoryStore.open(server.address).read("images/camera", 0, 106)
    assert not [path for path in server.asked if "/c." in path]
    server.stop()
    again = TrajectoryStore.open(server.address)  # as it was
    np.testing.assert_array_equal(again.read("images/camera", 0, 106), store.read("images/camera", 0, 106))
    assert "not reachable" in caplog.text


def test_a_store_that_has_changed_is_noticed(server: Server, store: TrajectoryStore, write_store) -> None:
    TrajectoryStore.open(server.address).read("images/camera", 0, 106)
    write_store(store.path, (12,), first=5)
    later = TrajectoryStore.open(server.address)
    assert later.num_episodes == 6
    np.testing.assert_array_equal(
        later.episode(5).images["camera"], TrajectoryStore.open(store.path).episode(5).images["camera"]
    )


def test_a_missing_chunk_is_an_error_and_not_zeros(server: Server, store: TrajectoryStore) -> None:
    (store.path / "data/images/camera/c.3.0.0.0").unlink()
    with pytest.raises(StoreError, match=r"chunk 3 of data/images/camera is missing .*in episode 2.*tell its owner"):
        TrajectoryStore.open(server.address).episode(2)


def test_a_damaged_chunk_is_named_and_not_kept(server: Server, store: TrajectoryStore) -> None:
    file = store.path / "data/images/camera/c.3.0.0.0"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])  # the server has no more, and says so
    remote = TrajectoryStore.open(server.address)
    with pytest.raises(StoreError, match="chunk 3 of data/images/camera cannot be decoded"):
        remote.episode(2)
    file.write_bytes((store.path / "data/images/camera/c.4.0.0.0").read_bytes())  # whole, but not what was recorded
    with pytest.raises(StoreError, match="images/camera of episode 2 is not what was recorded"):
        remote.episode(2)
    file.write_bytes(whole)
    remote.episode(2)


def test_an_answer_that_is_cut_short_is_an_error_and_not_kept(server: Server, capsys) -> None:
    remote = TrajectoryStore.open(server.address)
    server.cut = "data/images/camera/c.3."
    with pytest.raises(
        UnreachableError, match=r"chunk 3 of data/images/camera \(c\.3\.0\.0\.0\) cannot be fetched"
    ) as error:
        remote.episode(2)
    assert "\n" not in str(error.value)
    assert not [name for name in cached() if name.startswith(("c.3", "fetch"))]
    with pytest.raises(SystemExit):  # not called damage, which nobody knows
        main(["verify", server.address])
    assert "cannot be fetched" in capsys.readouterr().err
    server.cut = ""
    remote.episode(2)


def test_a_file_is_no_larger_than_its_array_allows_for(server: Server) -> None:
    remote = TrajectoryStore.open(server.address)
    server.endless = "data/images/camera/c.3."
    with pytest.raises(UnreachableError, match=r"chunk 3 of data/images/camera .*it has more than 3168 bytes"):
        remote.episode(2)
    assert server.sent < 2**24  # 16 pictures of 8 x 8 were expected; some lie in buffers
    assert not [name for name in cached() if name.startswith(("c.3", "fetch"))]


def test_a_file_that_drips_ends(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    remote = TrajectoryStore.open(server.address)
    monkeypatch.setattr(remote_module, "_PATIENCE_S", 1.0)
    server.endless, server.part, server.pause_s = "data/images/camera/c.3.", b"x", 0.1
    began = time.monotonic()
    with pytest.raises(UnreachableError, match=r"chunk 3 of data/images/camera .*it takes longer than 1 s"):
        remote.episode(2)
    assert time.monotonic() - began < 10


def test_what_was_used_longest_ago_makes_room(server: Server, monkeypatch: pytest.MonkeyPatch, write_store) -> None:
    stores = cache_folder() / "stores"
    roots = []
    for name in ("first", "second", "third"):
        write_store(server.root / f"{name}.zarr", (12,))
        opened = TrajectoryStore.open(server.address.replace("data", name))
        opened.episode(0)
        roots.append(opened.path)
    monkeypatch.setattr(remote_module.RemoteFiles, "_in_use", set())  # as in another process
    for age, root in enumerate(reversed(roots)):
        os.utime(root, (1e9 - age, 1e9 - age))
    TrajectoryStore.open(server.address.replace("data", "first"))  # has become the newest
    TrajectoryStore.open(server.address)
    size = sum(file.stat().st_size for file in stores.rglob("*") if file.is_file())
    monkeypatch.setenv("WORLDMODEL_CACHE_GB", str((size - 1000) / 1e9))
    remote = TrajectoryStore.open(server.address)
    assert [root.exists() for root in roots] == [True, False, True]
    monkeypatch.setenv("WORLDMODEL_CACHE_GB", "1e-9")
    TrajectoryStore.open(server.address)
    assert sorted(root for root in stores.glob("*/*/")) == sorted([roots[0], remote.path])  # what is open stays
    for given in ("much", "0", "-1", "nan"):
        monkeypatch.setenv("WORLDMODEL_CACHE_GB", given)
        with pytest.raises(UserError, match=f"WORLDMODEL_CACHE_GB is '{given}': expected a number of gigabytes"):
            TrajectoryStore.open(server.address)


def test_damage_in_the_cache_heals(server: Server, store: TrajectoryStore) -> None:
    """All of it at once, and without a word about the server, which has done nothing wrong."""
    remote = TrajectoryStore.open(server.address)
    for number in range(5):
        remote.episode(number)
    for file in [*remote.path.rglob("c.*"), remote.path / "data/action/zarr.json"]:
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    again = TrajectoryStore.open(server.address)
    for number in range(5):
        np.testing.assert_array_equal(again.episode(number).images["camera"], store.episode(number).images["camera"])


def test_exchanged_files_in_the_cache_heal(server: Server, store: TrajectoryStore) -> None:
    remote = TrajectoryStore.open(server.address)
    remote.read("images/camera", 0, 106)
    one, other = (remote.path / f"data/images/camera/c.{number}.0.0.0" for number in (3, 4))
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content[: len(content) // 2])
    for number in range(5):
        np.testing.assert_array_equal(
            TrajectoryStore.open(server.address).episode(number).images["camera"],
            store.episode(number).images["camera"],
        )


def test_a_password_is_shown_nowhere(server: Server, capsys: pytest.CaptureFixture) -> None:
    address = server.address.replace("http://", "http://me:se@cret@")
    shown = server.address.replace("http://", "http://***@")
    server.cut = "data/images/camera/c.3."
    with pytest.raises(UnreachableError) as raised:
        TrajectoryStore.open(address).episode(2)
    assert str(raised.value).startswith(shown)
    errors = [str(raised.value), *traceback.format_exception(raised.value)]
    server.cut = ""
    for command in ("verify", "inspect"):
        assert main([command, address]) == 0
    with pytest.raises(SystemExit):
        main(["verify", f"{address}?key=secret"])
    server.stop()
    assert main(["verify", address]) == 0  # as it was, with a word on that
    output = capsys.readouterr()
    told = "".join([*errors, output.out, output.err])
    assert "not reachable" in told and shown in told
    assert "cret" not in told.replace("test_", "")


def test_a_server_that_goes_away_is_an_error(server: Server) -> None:
    remote = TrajectoryStore.open(server.address)
    remote.read("images/camera", 0, 16)
    server.stop()
    remote.read("images/camera", 0, 16)
    with pytest.raises(UnreachableError, match=r"chunk 1 of data/images/camera .*cannot be fetched"):
        remote.read("images/camera", 0, 32)


def test_descriptions_are_checked_as_in_a_folder(server: Server, store: TrajectoryStore) -> None:
    file = store.path / "data/images/camera/zarr.json"
    content = json.loads(file.read_text())
    content["codecs"][1] = {"name": "numcodecs.pickle", "configuration": {}}
    file.write_text(json.dumps(content))
    with pytest.raises(StoreError, match=r"data/images/camera: codecs .* are not accepted"):
        TrajectoryStore.open(server.address)
    file.unlink()
    with pytest.raises(StoreError, match=r"data/images/camera: zarr\.json is missing"):
        TrajectoryStore.open(server.address)


def test_where_nothing_is_one_line_says_so(server: Server, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no recording at http.*/other: there is no zarr\.json"):
        TrajectoryStore.open(server.address.replace("data.zarr", "other"))
    server.stop()
    with pytest.raises(UnreachableError, match=r"zarr\.json cannot be fetched \(Cannot connect") as error:
        TrajectoryStore.open(server.address)
    assert "\n" not in str(error.value)


def test_object_storage_reads_as_the_folder_does(store: TrajectoryStore, tmp_path, monkeypatch) -> None:
    fsspec, _ = pytest.importorskip("fsspec"), pytest.importorskip("s3fs")
    server = Server(tmp_path.parent, BucketHandler)
    for name, value in (("ACCESS_KEY_ID", "id"), ("SECRET_ACCESS_KEY", "secret"), ("DEFAULT_REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("WORLDMODEL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(fsspec.config.conf, "s3", {"endpoint_url": server.origin})
    try:
        remote = TrajectoryStore.open(f"s3://{tmp_path.name}/data.zarr")
        assert remote.identity == store.identity
        for number in range(5):
            np.testing.assert_array_equal(
                remote.episode(number).images["camera"], store.episode(number).images["camera"]
            )
        with pytest.raises(StoreError, match=r"no recording at s3://.*/other: there is no zarr\.json"):
            TrajectoryStore.open(f"s3://{tmp_path.name}/other")
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("address", "message"),
    [("gs://bucket/data.zarr", "unknown kind of address 'gs'"), ("https://host/a?key=1", "has a \\? or #")],
)
def test_addresses_that_cannot_be_used(address: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        TrajectoryStore.open(address)


def test_a_library_that_is_not_installed_is_named(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(UserError, match=r"needs fsspec and aiohttp.*-e '\.\[remote\]'"):
        TrajectoryStore.open(server.address)


def test_nothing_is_written_to_an_address(spec) -> None:
    with pytest.raises(UserError, match="is an address, which is only read"):
        EpisodeWriter("s3://bucket/data.zarr", spec)
    with pytest.raises(UserError, match=r"https://host/data\.zarr is an address, which is only read"):
        recover(Path("https://host/data.zarr"), lambda *_: None)


def test_what_is_an_address() -> None:
    assert address_in("HTTPS://host/a/") == address_in(Path("https://host/a")) == "https://host/a"
    assert [address_in(path) for path in ("runs/data.zarr", "/a:/b", "C:/data", "a:b/c")] == [None] * 4
