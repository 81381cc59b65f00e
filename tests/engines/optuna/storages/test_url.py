import string
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bhsearch.engines.optuna.storages.url import scrubbed, server_host, without_password

# Host and database in capitals, all that is secret without them: a capital in what is shown is none of the secret.
PLACE = "HOST:5432/DB"
ANY = st.text(st.characters(blacklist_categories=["Lu", "Lt", "Cs"]), min_size=1, max_size=20)
ENCODED = ANY.map(lambda text: quote(text, safe=""))
RAW = st.text(string.ascii_lowercase + "@:/?#[]%&=+ {}", min_size=1, max_size=12)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite:///optuna.db", "sqlite:///optuna.db"),
        ("sqlite:////home/a@b/optuna.db", "sqlite:////home/a@b/optuna.db"),
        ("sqlite:///C:/studies/optuna.db", "sqlite:///C:/studies/optuna.db"),
        ("postgresql://host/db", "postgresql://host/db"),
        ("postgresql://host:5432/db", "postgresql://host:5432/db"),
        ("postgresql://[::1]:5432/db", "postgresql://[::1]:5432/db"),
        ("postgresql://ann:hunter2@[::1]/db", "postgresql://[::1]/db"),
        ("postgresql://ann:hunter2@host/db", "postgresql://host/db"),
        ("postgresql://ann:p@ss@host/db", "postgresql://host/db"),
        ("postgresql+psycopg://ann@host/db?password=hunter2", "postgresql+psycopg://host/db"),
        ("postgresql+psycopg://host/db?user=ann&password=hun@ter2", "postgresql+psycopg://..."),
        ("postgresql://ann:hun?ter2@host/db", "postgresql://..."),
        ("postgresql://ann:hunter2", "postgresql://..."),
        ("postgresql://ann:hunter2/db", "postgresql://..."),
        ("ann:hunter2@host/db", "host/db"),
        ("ann:hunter2", "..."),
    ],
)
def test_a_database_url_is_shown_without_its_password(url, shown):
    assert without_password(url) == shown


@settings(deadline=None)
@given(ENCODED, ENCODED, st.sampled_from(["password", "sslpassword", "user"]))
def test_of_a_sound_url_the_place_is_shown_and_nothing_else(user, password, option):
    shown = f"postgresql+psycopg://{PLACE}"
    assert without_password(f"postgresql+psycopg://{user}:{password}@{PLACE}") == shown
    assert without_password(f"postgresql+psycopg://{user}:{password}@{PLACE}?{option}={password}") == shown


@settings(deadline=None)
@given(RAW, RAW)
def test_of_a_password_that_was_not_encoded_nothing_is_shown(user, password):
    for url in (f"{user}:{password}@{PLACE}", f"{PLACE}?user={user}&password={password}", f"u:{password}@{PLACE}?a=b"):
        shown = without_password(f"PG://{url}").removeprefix("PG://")
        assert shown in (PLACE, "...")


@settings(deadline=None)
@given(ANY, st.sampled_from(["{}:{}@{}", "{0}@{2}?password={1}", "{0}@{2}?sslmode=require&sslpassword={1}"]))
def test_a_message_says_the_password_neither_plain_nor_encoded(password, form):
    for encode in (lambda text: quote(text, safe=""), quote_plus):
        url = "PG://" + form.format("U", encode(password), PLACE)
        for said in (password, encode(password), url):
            text = scrubbed(f"FATAL: {said} IS WRONG", url)
            if "not shown" not in text:
                assert text.startswith("FATAL: ")
                assert password not in text.replace("***", "")
                assert encode(password) not in text.replace("***", "")


def test_what_is_no_secret_stays_in_the_message():
    url = "postgresql://ann:hunter2@host/db"
    assert scrubbed('FATAL: database "db" on host does not exist', url) == 'FATAL: database "db" on host does not exist'
    assert scrubbed(f"cannot open {url}", url) == "cannot open postgresql://host/db"
    assert scrubbed("no such file: optuna.db", "sqlite:///optuna.db") == "no such file: optuna.db"


def test_an_answer_that_may_hold_a_short_password_is_not_shown():
    assert "not shown" in scrubbed("FATAL: no host a", "postgresql://ann:a@host/db")


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("postgresql+psycopg://ann:s3cret@db.example.org:5433/studies", "db.example.org"),
        ("postgresql://ann@localhost/studies", "localhost"),
        ("postgresql+psycopg://ann@[::1]:5432/studies", "::1"),
        ("postgresql+psycopg://ann@/studies?host=db", "db"),
        ("postgresql+psycopg://ann@/studies?host=/var/run/postgresql", ""),
        ("postgresql+psycopg:///studies", ""),
        ("postgresql+psycopg:///studies?service=lab", None),
        ("mysql+pymysql://ann@db/studies", "db"),
        ("sqlite:///optuna.db", None),
        ("journal:/shared/studies.log", None),
        ("no url", None),
    ],
)
def test_the_host_of_a_server_is_found(monkeypatch, url, host):
    for name in ("PGHOST", "PGSERVICE"):
        monkeypatch.delenv(name, raising=False)
    assert server_host(url) == host


def test_a_postgresql_url_without_a_host_has_that_of_the_environment(monkeypatch):
    monkeypatch.delenv("PGSERVICE", raising=False)
    monkeypatch.setenv("PGHOST", "db.example.org")
    assert server_host("postgresql+psycopg:///studies") == "db.example.org"
    assert server_host("postgresql+psycopg://other/studies") == "other"
    assert server_host("mysql+pymysql:///studies") == ""
    monkeypatch.setenv("PGHOST", "/var/run/postgresql")
    assert server_host("postgresql+psycopg:///studies") == ""
    monkeypatch.setenv("PGSERVICE", "lab")
    assert server_host("postgresql+psycopg:///studies") is None
