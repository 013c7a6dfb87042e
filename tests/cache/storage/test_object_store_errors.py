"""What a store at a URL that cannot be used says to people: the URL, the cause, the remedy, and no secret."""

import shlex

import obstore
import pytest
import yaml
from s3server import SECRETS, client_of, environment, serving
from tiny import tiny_cache

from pipeline.cache.extraction.extract import extract
from pipeline.cli import main
from pipeline.config import ConfigError, validate
from pipeline.paths import cache_root, read_path
from pipeline.training.config import TrainConfig


@pytest.fixture(scope="module")
def server():
    with serving() as (url, door):
        yield url, door


@pytest.fixture
def door(server, tmp_path, monkeypatch):
    url, door = server
    for name, value in environment(url).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SWARD_STORE_TIMEOUT", "0.3")
    monkeypatch.setenv("SWARD_CACHE", str(tmp_path / "sward-cache"))
    monkeypatch.setattr("pipeline.cache.storage.object_store.RETRY", {"max_retries": 1})
    yield door
    door.share, door.denied = 0.0, False


@pytest.fixture
def said(door, capsys, tmp_path):
    def run(command):
        """What a command says that cannot work; its exit status is 1, and it holds no secret and no traceback."""
        assert main(shlex.split(command)) == 1
        text = "".join(capsys.readouterr())
        assert "Traceback" not in text
        assert str(tmp_path / "sward-cache") not in text
        assert not [secret for secret in SECRETS.values() if secret in text]
        return text

    return run


def test_a_bucket_that_is_not_there(said):
    assert "s3://missing/a.zarr at 127.0.0.1" in (text := said("inspect s3://missing/a.zarr"))
    assert "there is no such bucket; create it, or correct the URL" in text


def test_a_place_without_a_store(said):
    assert "no feature store at s3://features/none.zarr; make it: sward extract" in said(
        "inspect s3://features/none.zarr"
    )


def test_access_denied_names_the_code_and_no_key(said, door):
    door.denied = True
    text = said("inspect s3://features/a.zarr")
    assert "access denied (InvalidAccessKeyId); give this user the rights to list, read and write there" in text


def test_a_server_that_is_not_there(said, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    text = said("inspect s3://features/a.zarr")
    assert "s3://features/a.zarr at 127.0.0.1:9: the service cannot be reached; check network and endpoint" in text


@pytest.mark.parametrize(
    ("third", "message"),
    [(0, "the service answers 500 InternalError, tried again and again"), (1, "no answer within 0.3 s, tried again")],
)
def test_a_server_that_always_fails_or_never_answers(said, door, monkeypatch, third, message):
    door.share = 1.0
    monkeypatch.setattr(door.random, "random", lambda: (third + 0.5) / 3)
    text = said("inspect s3://features/a.zarr")
    assert message in text
    assert "the same command continues" in text


def test_extraction_is_refused_before_any_work_where_something_else_lies(said, door, tmp_path):
    obstore.put(client_of("s3://features/mine"), "notes.txt", b"mine")
    config = tmp_path / "cache.yaml"
    config.write_text(yaml.safe_dump(tiny_cache(tmp_path, store="s3://features/mine").model_dump(mode="json")))
    text = said(f"extract {config}")
    assert "s3://features/mine is not a store, but holds notes.txt; set store to a new prefix" in text


@pytest.mark.parametrize("verb", ["prune {url}", "repack LOCAL {url}"])
def test_tools_that_work_on_local_stores_say_so(said, tmp_path, verb):
    local = extract(tiny_cache(tmp_path)).path
    text = said(verb.format(url="s3://features/a.zarr").replace("LOCAL", str(local)))
    assert "works on local stores, not on s3://features/a.zarr; copy it here first: sward copy" in text


@pytest.mark.parametrize("url", ["s3://key:word@bucket/a", "ftp://host/a", "s3://", "s3://bucket/a?x=word"])
def test_a_url_of_another_kind_is_refused_without_repeating_a_password(url):
    with pytest.raises(ValueError, match=r"expected s3://bucket/prefix, gs://bucket/prefix or az://") as raised:
        read_path(url)
    assert "key" not in str(raised.value)


def test_the_folders_that_stand_for_urls_lie_in_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.delenv("SWARD_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_root() == tmp_path / "sward"
    here = read_path("s3://bucket/a/store.zarr")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://elsewhere")
    assert read_path("s3://bucket/a/store.zarr") != here  # the same name on another server is another store


def test_the_size_of_the_read_cache_has_a_unit():
    values = {"name": "a", "cache": {}, "student": {"kind": "unext"}, "steps": 1, "cache_bytes": "20 litres"}
    with pytest.raises(ConfigError, match=r"cache_bytes: .*expected a size such as 200GB"):
        validate(TrainConfig, values, "a.yaml")
