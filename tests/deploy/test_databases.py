"""Databases in and out: the rows of a query, predictions as a table, in one transaction or resumable by key."""

import gzip
import json
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.ipc
import pytest

import probinfer as pi
from probinfer import cli
from probinfer.deploy import score as scoring
from probinfer.deploy import table_sink
from probinfer.deploy.database import Address, connect
from probinfer.deploy.score import score
from probinfer.deploy.table_sink import IfExists, TableSink
from tests.deploy.conftest import LOADED
from tests.deploy.houses import rows
from tests.deploy.test_tables import assert_predicted, read, write

COUNT = 700
QUERY = "SELECT * FROM houses"


@pytest.fixture(params=["sqlite", "duckdb", "postgresql"])
def url(request, tmp_path):
    """An empty database of each kind."""
    if request.param != "postgresql":
        yield f"{request.param}:///{tmp_path / 'houses.db'}"
        return
    server = request.getfixturevalue("postgres")
    yield server.url
    ask(server.url, "DROP SCHEMA public CASCADE")
    ask(server.url, "CREATE SCHEMA public")


def ask(url, statement):
    database = connect(Address(url))
    found = database.run(statement)
    database.commit()
    database.close()
    return found


def has_table(url, name):
    database = connect(Address(url))
    found = database.has_table(name)
    database.close()
    return found


def fill(url, table, name="houses"):
    import pyarrow as pa

    database = connect(Address(url))
    database.append(name, pa.Table.from_pandas(table, preserve_index=False), True)
    database.commit()
    database.close()


def scored(url, table="scores"):
    """The table of predictions, by id."""
    database = connect(Address(url))
    batches = list(database.read(f"SELECT * FROM {table} ORDER BY id"))
    database.close()
    return pd.concat([batch.to_pandas() for batch in batches], ignore_index=True)


def test_a_query_in_and_a_table_out(quick, url):
    table = rows(COUNT)
    fill(url, table)
    done = score(quick, url, url, query=QUERY + " ORDER BY id;", table="scores", keep=["id", "name"], chunk_rows=64)
    assert done.rows == COUNT
    assert_predicted(quick, scored(url), table)
    with pytest.raises(pi.DataError, match=r"scores of .* is there already; name another table"):
        score(quick, url, url, query=QUERY, table="scores")
    score(
        quick, url, url, query=QUERY + " WHERE id < 130", table="scores", keep=["id", "name"], if_exists=IfExists.APPEND
    )
    assert len(scored(url)) == COUNT + 10
    score(quick, url, url, query=QUERY, table="scores", keep=["id", "name"], if_exists=IfExists.REPLACE)
    assert_predicted(quick, scored(url), table)
    assert not has_table(url, table_sink.PROGRESS)


def test_a_query_in_and_a_file_out_in_the_order_of_the_query(quick, url, tmp_path):
    table = rows(COUNT)
    fill(url, table)
    score(quick, url, tmp_path / "out.parquet", query=QUERY + " ORDER BY id DESC", keep=["id", "name"], chunk_rows=64)
    assert_predicted(quick, read(tmp_path / "out.parquet"), table.iloc[::-1].reset_index(drop=True))


def test_a_run_that_fails_leaves_the_database_as_it_was(quick, url, tmp_path):
    table = rows(COUNT)
    table.loc[600, "group"] = 77
    fill(url, table)
    with pytest.raises(pi.PredictionError, match="a level that the model has never seen"):
        score(quick, url, url, query=QUERY + " ORDER BY id", table="scores", keep=["id"], chunk_rows=64)
    assert not has_table(url, "scores")
    done = score(
        quick, url, url, query=QUERY + " ORDER BY id", table="scores", keep=["id", "name"], rejects=tmp_path / "bad"
    )
    assert (done.rows, done.rejected) == (COUNT - 1, 1)
    assert json.loads((tmp_path / "bad").read_text())["held"]["id"] == 1900


class Died(Exception):
    """Stands for a process that ends."""


def test_by_key_a_run_goes_on_without_losing_or_doubling_a_row(quick, url, tmp_path, monkeypatch):
    by_key(quick, url, tmp_path, monkeypatch, "table")


def test_by_key_into_a_file(quick, tmp_path, monkeypatch):
    by_key(quick, f"sqlite:///{tmp_path / 'houses.db'}", tmp_path, monkeypatch, "file")


def by_key(quick, url, tmp_path, monkeypatch, goes_to):
    monkeypatch.setattr(scoring, "PART_ROWS", 100)
    table = rows(COUNT)
    table.loc[[5, 400], "group"] = 77
    shuffled = table.sample(frac=1.0, random_state=0)
    fill(url, shuffled)
    sink = {"table": "scores"} if goes_to == "table" else {}
    output = url if goes_to == "table" else tmp_path / "out.parquet"
    options = {"query": QUERY, "key": "id", "keep": ["name"], "rejects": tmp_path / "bad", "chunk_rows": 64, **sink}
    for deaths in (3, 5, 4):
        with monkeypatch.context() as patch:
            dying_after(patch, deaths)
            with pytest.raises(Died):
                score(quick, url, output, resume=True, **options)
    done = score(quick, url, output, resume=True, **options)
    assert (done.rows, done.rejected) == (COUNT - 2, 2)
    assert done.resumed > 200
    found = scored(url) if goes_to == "table" else read(tmp_path / "out.parquet")
    assert_predicted(quick, found, table.drop(index=[5, 400]))
    assert [json.loads(line)["held"]["id"] for line in (tmp_path / "bad").read_text().splitlines()] == [115, 1300]
    if goes_to == "table":
        assert ask(url, f"SELECT count(*) FROM {table_sink.PROGRESS}") == [(0,)]


def dying_after(patch, pieces):
    """Have the run die before its `pieces`-th piece is written, where another thread may have read further."""
    written = iter(range(10**6))

    def fitted(self, table, real=scoring._Columns.fitted):
        if next(written) == pieces:
            raise Died
        return real(self, table)

    patch.setattr(scoring._Columns, "fitted", fitted)


def test_a_file_goes_into_a_table_and_goes_on_by_position(quick, url, tmp_path, monkeypatch):
    monkeypatch.setattr(scoring, "PART_ROWS", 100)
    table = rows(COUNT)
    source = write(table, tmp_path / "in.csv")
    options = {"table": "scores", "keep": ["id", "name"], "chunk_rows": 64, "resume": True}
    with monkeypatch.context() as patch:
        dying_after(patch, 6)
        with pytest.raises(Died):
            score(quick, source, url, **options)
    assert 0 < len(scored(url)) < COUNT  # committed rows are there to be read
    done = score(quick, source, url, **options)
    assert 0 < done.resumed < done.rows == COUNT
    assert_predicted(quick, scored(url), table)


def test_a_run_that_another_has_taken_over_commits_nothing_more(quick, url):
    import pyarrow as pa

    if url.startswith("sqlite") or url.startswith("duckdb"):
        pytest.skip("one process at a time has the file")
    options = {"if_exists": IfExists.FAIL, "asked": {"a": 1}, "lasting": True}
    piece = pa.table({"id": [1, 2]})
    first = TableSink(Address(url), "scores", **options)
    first.open()
    first.write(piece)
    first.commit(pi_position(2))
    second = TableSink(Address(url), "scores", **options)
    assert second.open() == pi_position(2)
    first.write(piece)
    with pytest.raises(pi.DataError, match="Another process has taken over this run into scores"):
        first.commit(pi_position(4))
    with pytest.raises(pi.DataError, match="Another process has taken over"):
        first.finish(pi_position(4))
    first.abandon()
    second.write(piece)
    second.finish(pi_position(4))
    assert ask(url, "SELECT count(*) FROM scores") == [(4,)]


def pi_position(rows):
    from probinfer.deploy.chunk import Position

    return Position(rows=rows, written=rows)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda t: t.assign(id=t["id"].where(t["id"] != 400, 403)), "has the value 403 more than once"),
        (lambda t: t.assign(id=t["id"].astype("Int64").where(t["id"] != 400)), "The key id is missing in row"),
        (lambda t: t.assign(id=t["id"] + 0.5), "is of type double; wanted whole numbers or text"),
    ],
    ids=["equal", "missing", "fraction"],
)
def test_keys_that_are_none(quick, url, change, text):
    fill(url, change(rows(300)))
    with pytest.raises(pi.DataError, match=text):
        score(quick, url, url, query=QUERY, table="scores", key="id", resume=True, chunk_rows=64)


def test_wrong_queries_are_said_in_a_line_without_the_password(quick, url, capsys):
    fill(url, rows(10))
    for query, text in (
        ("SELECT nothing FROM houses", "nothing"),
        ("SELECT * FROM nowhere", "nowhere"),
        ("SELEC", "SELEC|syntax"),
        ("SELECT x FROM houses", "rows lack group"),
        ('SELECT x, "group" FROM houses; DROP TABLE houses', "DROP|syntax|multiple|statement"),
    ):
        with pytest.raises((pi.DataError, pi.PredictionError), match=text) as failure:
            score(quick, url, url, query=query, table="scores")
        assert "s3cret" not in str(failure.value)
    assert ask(url, "SELECT count(*) FROM houses") == [(10,)]
    assert cli.main(["score", str(quick), url, url, "--query", QUERY, "--table", "scores", "--key", "nope"]) == 2
    assert "no column 'nope'" in capsys.readouterr().err


def test_resuming_a_query_needs_a_key(quick, url):
    fill(url, rows(10))
    with pytest.raises(
        pi.DataError, match="name a column that has a value in every row and no two equal ones: --key id"
    ):
        score(quick, url, url, query=QUERY, table="scores", resume=True)


def test_text_keys(quick, url, monkeypatch):
    monkeypatch.setattr(scoring, "PART_ROWS", 100)
    table = rows(300)
    table["id"] = [f"{i:05d}'; ü" for i in table["id"]]
    fill(url, table)
    options = {"query": QUERY, "key": "id", "keep": ["name"], "table": "scores", "chunk_rows": 64, "resume": True}
    with monkeypatch.context() as patch:
        dying_after(patch, 3)
        with pytest.raises(Died):
            score(quick, url, url, **options)
    score(quick, url, url, **options)
    assert_predicted(quick, scored(url), table)


def test_cells_of_sqlite_have_types_of_their_own(quick, tmp_path):
    table = rows(COUNT)
    url = f"sqlite:///{tmp_path / 'a.db'}"
    with sqlite3.connect(tmp_path / "a.db") as connection:
        connection.execute('CREATE TABLE houses (id INTEGER PRIMARY KEY, name, "group", x, note TEXT)')
        values = [
            (int(i), n, float(g) if k % 2 else int(g), 1 if k < 200 else float(x), None if k < 300 else "late")
            for k, (i, n, g, x) in enumerate(table.itertuples(index=False))
        ]
        values[10] = (*values[10][:3], "0.5", None)
        values[11] = (*values[11][:2], 1.5, 0.0, None)
        values[12] = (*values[12][:3], None, None)
        values[13] = (*values[13][:3], float("inf"), None)
        connection.executemany("INSERT INTO houses VALUES (?, ?, ?, ?, ?)", values)
    connection.close()
    expected = table.assign(x=np.where(np.arange(COUNT) < 200, 1.0, table["x"]))
    done = score(
        quick,
        url,
        tmp_path / "out.csv",
        query=QUERY,
        keep=["id", "name", "note"],
        rejects=tmp_path / "bad",
        chunk_rows=64,
    )
    assert done.rejected == 4
    found = read(tmp_path / "out.csv")
    assert_predicted(quick, found, expected.drop(index=[10, 11, 12, 13]))
    assert (found["note"][296:] == "late").all()
    bad = [json.loads(line) for line in (tmp_path / "bad").read_text().splitlines()]
    assert [fault["row"] for fault in bad] == [10, 11, 12, 13]
    for fault, text in zip(
        bad, ["x is '0.5' in row 10", "group is '1.5' in row 11", "row 12", "x is inf"], strict=True
    ):
        assert text in fault["reason"]
    assert bad[0]["held"]["x"] == "0.5"
    with pytest.raises(pi.DataError, match=r"x is '0.5' in row 10 \(the first row is row 0\); wanted a number"):
        score(quick, url, tmp_path / "out.csv", query=QUERY)


def test_decimals_and_arrays_of_postgresql(postgres, quick, tmp_path):
    query = """SELECT 7 AS id, 'a' AS name, 0.25::numeric AS x, 1::smallint AS "group" """
    score(quick, postgres.url, tmp_path / "out.csv", query=query, keep=["id", "name"])
    expected = LOADED(quick).predict({"x": [0.25], "group": [1]}).mean
    np.testing.assert_allclose(read(tmp_path / "out.csv")["mean"], expected)


def test_a_schema_before_the_table(postgres, quick, tmp_path):
    ask(postgres.url, 'CREATE SCHEMA "Daily"')
    source = write(rows(20), tmp_path / "in.csv")
    score(quick, source, postgres.url, table="Daily.scores", keep=["id"])
    assert ask(postgres.url, 'SELECT count(*) FROM "Daily".scores') == [(20,)]
    with pytest.raises(pi.DataError, match="is there already"):
        score(quick, source, postgres.url, table="Daily.scores")
    ask(postgres.url, 'DROP SCHEMA "Daily" CASCADE')


def test_a_server_that_goes_away_and_comes_back(postgres, quick, tmp_path, monkeypatch):
    monkeypatch.setattr(scoring, "PART_ROWS", 100)
    table = rows(COUNT)
    source = write(table, tmp_path / "in.parquet")
    options = {"table": "gone", "keep": ["id", "name"], "chunk_rows": 64}
    for resume in (False, True):
        with monkeypatch.context() as patch:
            written = iter(range(10**6))

            def fitted(self, table, real=scoring._Columns.fitted, written=written):
                if next(written) == 6:
                    postgres.stop()
                return real(self, table)

            patch.setattr(scoring._Columns, "fitted", fitted)
            with pytest.raises(ConnectionError, match="postgresql://tester:") as failure:
                score(quick, source, postgres.url, resume=resume, **options)
            assert "s3cret" not in str(failure.value)
        with pytest.raises(ConnectionError):
            score(quick, source, postgres.url, resume=resume, **options)
        postgres.start()
        found = ask(postgres.url, "SELECT to_regclass('gone') IS NOT NULL")[0][0]
        assert found is resume  # all or nothing, or what was committed
    done = score(quick, source, postgres.url, resume=True, **options)
    assert 0 < done.resumed < COUNT
    assert_predicted(quick, scored(postgres.url, "gone"), table)
    ask(postgres.url, "DROP TABLE gone")


SCRIPT = """
    from probinfer.deploy import score as scoring
    scoring.PART_ROWS = 1_000
    scoring.score({path!r}, {url!r}, {url!r}, query="SELECT * FROM many", key="id", keep=["name"], table="killed",
                  chunk_rows=500, resume=True)
"""


@pytest.mark.long
def test_killed_for_real_between_two_tables(postgres, quick):
    table = rows(60_000)
    fill(postgres.url, table, "many")
    script = textwrap.dedent(SCRIPT).format(path=str(quick), url=postgres.url)
    process = subprocess.Popen([sys.executable, "-c", script])
    killer = threading.Timer(200, process.kill)
    killer.start()
    while process.poll() is None:
        time.sleep(0.05)
        if ask(postgres.url, "SELECT to_regclass('killed') IS NOT NULL")[0][0]:
            process.kill()
    killer.cancel()
    done = score(
        quick,
        postgres.url,
        postgres.url,
        query="SELECT * FROM many",
        key="id",
        keep=["name"],
        table="killed",
        resume=True,
    )
    assert 1_000 <= done.resumed < 60_000
    assert_predicted(quick, scored(postgres.url, "killed"), table)
    ask(postgres.url, "DROP TABLE killed, many")


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl", "/"])
def test_sql_over_files_by_duckdb(quick, tmp_path, suffix):
    table = rows(COUNT)
    source = tmp_path / f"in{suffix}" if suffix != "/" else tmp_path / "in"
    if suffix == "/":
        write(table.iloc[:300], source / "a.parquet")
        write(table.iloc[300:], source / "b.parquet")
    else:
        write(table.assign(x=table["x"] - 1), source)
    shift = "" if suffix == "/" else " + 1"
    query = f'SELECT id, name, x{shift} AS x, "group" FROM input WHERE id < 700 ORDER BY id'
    done = score(quick, source, tmp_path / "out.csv", query=query, keep=["id", "name"], chunk_rows=64)
    assert done.rows == 200
    assert_predicted(quick, read(tmp_path / "out.csv"), table.iloc[:200])
    files = f"SELECT * FROM '{write(table, tmp_path / 'b.parquet')}' WHERE id < 130"
    assert score(quick, "duckdb://", tmp_path / "c.csv", query=files).rows == 10


def test_a_missing_driver_names_the_extra(quick, tmp_path, monkeypatch):
    source = write(rows(3), tmp_path / "in.csv")
    for module, url in (("duckdb", "duckdb:///a.db"), ("adbc_driver_sqlite", f"sqlite:///{tmp_path}/a.db")):
        for name in [name for name in sys.modules if name.split(".")[0] == module]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(pi.MissingExtra, match=r"pip install 'probinfer\[sql\]'"):
            score(quick, source, url, table="scores")


def test_passwords_are_not_shown():
    address = Address("postgresql://ann:p%40ss@host:5/db?sslmode=require")
    assert address.shown == "postgresql://ann:***@host:5/db?sslmode=require"
    assert address.hide("no p%40ss, no p@ss") == "no ***, no ***"
    assert Address("postgresql:///db?host=h&password=abc").shown == "postgresql:///db?host=h&password=***"


def test_uuids_of_postgresql_are_copied_and_are_keys(quick, postgres, tmp_path, monkeypatch):
    ask(postgres.url, "CREATE TABLE seen AS SELECT gen_random_uuid() AS id, i / 99.0 AS x, 1 AS \"group\" FROM "
        "generate_series(1, 99) i")  # fmt: skip
    try:
        ids = [str(row[0]) for row in ask(postgres.url, "SELECT id FROM seen ORDER BY id")]
        monkeypatch.setattr(scoring, "PART_ROWS", 20)
        call = {"query": "SELECT * FROM seen", "key": "id", "chunk_rows": 10}
        for name in ("out.csv", "out.jsonl"):
            assert score(quick, postgres.url, tmp_path / name, **call, resume=True).rows == 99
            assert list(read(tmp_path / name)["id"]) == ids
        done, add = [], table_sink.TableSink.commit

        def commit(sink, position):
            if len(done) == 2:
                raise ConnectionError("gone")
            done.append(position)
            add(sink, position)

        with monkeypatch.context() as broken:
            broken.setattr(table_sink.TableSink, "commit", commit)
            with pytest.raises(ConnectionError, match="gone"):
                score(quick, postgres.url, postgres.url, **call, table="scores", resume=True)
        assert score(quick, postgres.url, postgres.url, **call, table="scores", resume=True).resumed == 40
        assert [str(row[0]) for row in ask(postgres.url, "SELECT id FROM scores ORDER BY id")] == ids
        assert ask(postgres.url, "SELECT pg_typeof(id)::text FROM scores LIMIT 1") == [("uuid",)]
    finally:
        ask(postgres.url, "DROP TABLE IF EXISTS seen, scores")


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        ("12.5::money", "id is of the type money; cast it in the query: id::numeric"),
        ("'1.1.1.1'::inet", "id is of the type inet, which comes as bytes; cast it: id::text"),
        ("12345678901234567::numeric", "id is 12345678901234567 in row 0 .* more digits than that keeps. Cast it"),
    ],
)
def test_types_of_postgresql_that_would_lose_something_are_refused(quick, postgres, tmp_path, cell, text):
    query = f'SELECT {cell} AS id, 0.5 AS x, 1 AS "group"'
    with pytest.raises((pi.DataError, pi.PredictionError), match=text):
        score(quick, postgres.url, tmp_path / "out.csv", query=query, keep=["id"])
    if "money" in cell:  # it would be a hundred times what it is
        with pytest.raises(pi.DataError, match="x is of the type money"):
            score(quick, postgres.url, tmp_path / "out.csv", query=f'SELECT {cell} AS x, 1 AS "group"')


def test_an_error_in_the_middle_of_a_query_is_the_querys(quick, postgres, tmp_path):
    """No ConnectionError, after which some would try again for ever."""
    query = 'SELECT 1.0 / (9000 - i) AS x, 1 AS "group" FROM generate_series(1, 10000) i'
    with pytest.raises(pi.DataError, match="division by zero"):
        score(quick, postgres.url, tmp_path / "out.csv", query=query)
    query = 'SELECT 1.0 AS x, 1 AS "group" WHERE pg_terminate_backend(pg_backend_pid())'
    with pytest.raises(ConnectionError, match="terminating connection"):
        score(quick, postgres.url, tmp_path / "out.csv", query=query)


def test_a_table_of_other_types_is_told_which_it_needs(quick, postgres, tmp_path):
    source = write(rows(3), tmp_path / "in.csv")
    ask(postgres.url, "CREATE TABLE narrow (mean real, sd numeric)")
    try:
        with pytest.raises(pi.DataError, match="To add to the table narrow it has to have the columns mean double, sd"):
            score(quick, source, postgres.url, table="narrow", if_exists=IfExists.APPEND)
    finally:
        ask(postgres.url, "DROP TABLE narrow")


def test_a_query_without_rows_makes_a_table_of_the_same_types(quick, url):
    if url.startswith("sqlite"):
        pytest.skip("in SQLite only cells have types")
    fill(url, rows(3))
    score(quick, url, url, query=QUERY + " WHERE id < 0", table="scores", keep=["id", "name"])
    score(quick, url, url, query=QUERY, table="scores", keep=["id", "name"], if_exists=IfExists.APPEND)
    assert list(scored(url)["id"]) == [100, 103, 106]


def test_sql_over_a_stream_of_arrow_says_what_is_wanted(quick, tmp_path):
    table = pa.table({"id": [1, 2]})
    with pa.ipc.new_stream(tmp_path / "in.arrow", table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(pi.DataError, match="no streams"):
        score(quick, tmp_path / "in.arrow", tmp_path / "out.csv", query="SELECT * FROM input")


def test_sql_over_compressed_text(quick, tmp_path):
    plain = write(rows(5), tmp_path / "in.csv")
    (tmp_path / "in.csv.gz").write_bytes(gzip.compress(plain.read_bytes()))
    score(quick, tmp_path / "in.csv.gz", tmp_path / "out.csv", query="SELECT * FROM input WHERE id > 103", keep=["id"])
    assert list(read(tmp_path / "out.csv")["id"]) == [106, 109, 112]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet", ".arrow"])
def test_sql_over_a_folder_of_any_format(quick, tmp_path, suffix):
    for number in range(2):
        write(rows(5), tmp_path / f"in/day={number}/a{suffix}")
    (tmp_path / "in/_SUCCESS").touch()
    call = {"query": "SELECT *, id + 1000 * day AS key FROM input WHERE id > 103", "key": "key", "resume": True}
    assert score(quick, tmp_path / "in", tmp_path / "out.csv", **call).rows == 6
    assert list(read(tmp_path / "out.csv")["key"]) == [106, 109, 112, 1106, 1109, 1112]


def test_a_run_over_a_query_of_files_that_changed_is_not_gone_on_with(quick, tmp_path, monkeypatch):
    source = write(rows(50), tmp_path / "in.csv")
    call = {"query": "SELECT * FROM input", "key": "id", "resume": True, "chunk_rows": 10}
    monkeypatch.setattr(scoring, "PART_ROWS", 10)
    with monkeypatch.context() as broken:
        broken.setattr(table_sink.TableSink, "finish", lambda sink, position: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            score(quick, source, f"sqlite:///{tmp_path}/out.db", table="scores", **call)
    write(rows(60), source)
    with pytest.raises(pi.DataError, match="there already"):  # of another run, as far as anybody can tell
        score(quick, source, f"sqlite:///{tmp_path}/out.db", table="scores", **call)


@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="a signal would end the tests")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("scheme", ["sqlite", "duckdb", "postgresql"])
def test_a_signal_while_rows_are_inserted_is_no_error_of_the_database(tmp_path, request, scheme, sent):
    """Drivers put something of their own in the place of what Python's handler raises."""
    server = scheme == "postgresql"
    address = Address(request.getfixturevalue("postgres").url if server else f"{scheme}:///{tmp_path / 'a.db'}")
    numbers = pa.table({name: np.arange(300_000.0) for name in "abc"})
    database, before = connect(address), signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(0.1, os.kill, (os.getpid(), sent))

    def insert():
        timer.start()
        for place in range(1000):
            database.append("signalled", numbers, place == 0)

    try:
        with pytest.raises(KeyboardInterrupt) as raised, cli._ending_in_order():
            insert()
    finally:
        signal.signal(signal.SIGINT, before)
    assert (type(raised.value) is cli._Terminated) == (sent is signal.SIGTERM)
    database.close()
    again = connect(address)
    assert not again.has_table("signalled")
    again.close()


def test_a_cursor_that_is_left_open_does_not_keep_the_file(tmp_path):
    """As where Ctrl-C comes between the making of a cursor and its use."""
    address, numbers = Address(f"sqlite:///{tmp_path / 'a.db'}"), pa.table({"a": [1.0]})
    database = connect(address)
    database.append("p", numbers, True)
    left = database._connection.cursor()
    database.close()
    other = connect(address)
    assert not other.has_table("p")
    other.append("p", numbers, True)  # would wait for the file
    other.close()
    left.close()
