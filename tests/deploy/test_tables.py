"""Files, folders and pipes, in and out: the same numbers as predicting the rows, bad rows apart with their reasons."""

import decimal
import gzip
import io
import json
import math
import os
import subprocess
import sys
import threading

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest

import probinfer as pi
from probinfer import cli
from probinfer.deploy import score as scoring
from probinfer.deploy import tables
from probinfer.deploy.ahead import ahead
from probinfer.deploy.columns import column_of
from probinfer.deploy.csv_types import csv_types
from probinfer.deploy.outputs import Writer
from probinfer.deploy.score import score
from probinfer.deploy.table_sink import IfExists
from probinfer.deploy.tables import read_chunks
from tests.deploy.conftest import LOADED
from tests.deploy.houses import rows

COUNT = 700


def write(table, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        table.to_csv(path, index=False)
    elif path.suffix == ".parquet":
        table.to_parquet(path, row_group_size=150)
    elif path.suffix in (".jsonl", ".ndjson"):
        table.to_json(path, orient="records", lines=True, double_precision=15)
    else:
        with pa.ipc.new_file(path, pa.Schema.from_pandas(table)) as writer:
            writer.write_table(pa.Table.from_pandas(table), max_chunksize=130)
    return path


def read(path):
    if path.is_dir():
        return pd.concat([read(part) for part in sorted(path.iterdir())], ignore_index=True)
    if path.suffix == ".csv":
        return pd.read_csv(path)
    if path.suffix == ".parquet":
        return pd.read_parquet(path)
    if path.suffix in (".jsonl", ".ndjson"):
        return pd.read_json(path, lines=True, precise_float=True)
    with pa.ipc.open_file(path) as reader:
        return reader.read_pandas()


def assert_predicted(predictor, found, table, level=0.9):
    expected = LOADED(predictor).predict(table, level=level)
    assert len(found) == len(table)
    for name, values in expected.columns().items():
        np.testing.assert_allclose(found[name], values, rtol=1e-9, err_msg=name)
    assert found["id"].tolist() == table["id"].tolist()
    assert found["name"].tolist() == table["name"].tolist()


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("a.arrow", "b.jsonl"),
        ("a.jsonl", "b.arrow"),
        ("a.feather", "b.ndjson"),
        ("a.ipc", "b.csv"),
        ("a.csv", "b.parquet"),
    ],
)
def test_scores_are_the_predictions_whatever_the_format(quick, tmp_path, source, target):
    table = rows(COUNT)
    done = score(quick, write(table, tmp_path / source), tmp_path / target, keep=["id", "name"], chunk_rows=97)
    assert (done.rows, done.rejected, done.resumed) == (COUNT, 0, 0)
    assert_predicted(quick, read(tmp_path / target), table)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([source, target])


def test_an_arrow_stream_is_read_like_a_file(quick, tmp_path):
    table = rows(300)
    with pa.ipc.new_stream(tmp_path / "a.arrow", pa.Schema.from_pandas(table)) as writer:
        writer.write_table(pa.Table.from_pandas(table), max_chunksize=70)
    score(quick, tmp_path / "a.arrow", tmp_path / "b.csv", keep=["id", "name"])
    assert_predicted(quick, read(tmp_path / "b.csv"), table)


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".arrow", ".jsonl"])
def test_a_folder_is_read_file_by_file_and_its_partitions_are_columns(quick, tmp_path, suffix):
    table = rows(400).sort_values("group", kind="stable", ignore_index=True)
    for group, part in table.groupby("group"):
        for half in (0, 1):
            write(part.iloc[half::2].drop(columns="group"), tmp_path / f"in/group={group}/part-{half}{suffix}")
    (tmp_path / "in/_SUCCESS").touch()
    (tmp_path / "in/.hidden.csv").write_text("nothing")
    done = score(quick, tmp_path / "in", f"{tmp_path}/out/", keep=["id", "name", "group"], chunk_rows=30)
    assert done.rows == 400
    found = read(tmp_path / "out")
    order = pd.concat([part.iloc[half::2] for _, part in table.groupby("group") for half in (0, 1)], ignore_index=True)
    assert_predicted(quick, found, order)
    assert found["group"].astype(int).tolist() == order["group"].tolist()


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_compressed_text_is_read_and_not_written(quick, tmp_path, suffix):
    plain = write(rows(50), tmp_path / f"in{suffix}")
    packed = tmp_path / f"in{suffix}.gz"
    packed.write_bytes(gzip.compress(b"\xef\xbb\xbf" + plain.read_bytes()))
    for source, target in ((plain, "a.csv"), (packed, "b.csv")):
        score(quick, source, tmp_path / target)
    pd.testing.assert_frame_equal(read(tmp_path / "a.csv"), read(tmp_path / "b.csv"))
    with pytest.raises(pi.DataError, match="gzip afterwards"):
        score(quick, packed, tmp_path / "c.csv.gz")
    packed.write_bytes(packed.read_bytes()[:-30])
    with pytest.raises(pi.DataError, match="damaged or not complete"):
        score(quick, packed, tmp_path / "d.csv")


def test_a_folder_of_parts_has_the_format_of_its_name(quick, tmp_path, monkeypatch):
    monkeypatch.setattr(scoring, "PART_ROWS", 200)
    table = rows(COUNT)
    source = write(table, tmp_path / "in.parquet")
    for name, suffix in (("plain", ".parquet"), ("lines.jsonl", ".jsonl"), ("cells.csv", ".csv")):
        score(quick, source, f"{tmp_path / name}/", keep=["id", "name"], chunk_rows=100, resume=True)
        parts = sorted(path.name for path in (tmp_path / name).iterdir())
        assert parts == [f"part-{n:06d}{suffix}" for n in range(4)]
        assert_predicted(quick, read(tmp_path / name), table)
    with pytest.raises(pi.DataError, match="plain is there already; remove it, or write to another folder"):
        score(quick, source, f"{tmp_path / 'plain'}/")


def test_vectors_come_as_lists_or_as_columns(tmp_path):
    import numpyro
    import numpyro.distributions as dist

    def model(X, y=None):
        b = numpyro.sample("b", dist.Normal(0, 1).expand([3]).to_event(1))
        numpyro.sample("y", dist.Normal(X @ b, 1.0), obs=y)

    rng = np.random.default_rng(2)
    X = rng.normal(size=(50, 3))
    fitted = pi.infer(model, {"X": X, "y": X.sum(axis=1)}, pi.Exact(draws=100), progress=False)
    pi.Predictor(fitted).save(tmp_path / "predictor")
    expected = LOADED(tmp_path / "predictor").predict({"X": X}).mean
    lists = pa.table({"X": pa.array(X.tolist())})
    pq.write_table(lists, tmp_path / "lists.parquet")
    pq.write_table(lists.cast(pa.schema({"X": pa.list_(pa.float64(), 3)})), tmp_path / "fixed.parquet")
    (tmp_path / "lists.jsonl").write_text("".join(json.dumps({"X": x}) + "\n" for x in X.tolist()))
    (tmp_path / "columns.jsonl").write_text(
        "".join(json.dumps({f"X[{i}]": x for i, x in enumerate(r)}) + "\n" for r in X.tolist())
    )
    for name in ("lists.parquet", "fixed.parquet", "lists.jsonl", "columns.jsonl"):
        score(tmp_path / "predictor", tmp_path / name, tmp_path / "out.csv")
        np.testing.assert_allclose(read(tmp_path / "out.csv")["mean"], expected, rtol=1e-12, err_msg=name)
    (tmp_path / "short.jsonl").write_text(
        '{"X": [1, 2, 3]}\n{"X": [1, 2]}\n{"X": [1, "a", 3]}\n{"X": null}\n{}\n{"X": 2}\n'
    )
    done = score(
        tmp_path / "predictor", tmp_path / "short.jsonl", tmp_path / "out.jsonl", rejects=tmp_path / "bad.jsonl"
    )
    assert (done.rows, done.rejected) == (1, 5)
    reasons = [json.loads(line)["reason"] for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    for reason, text in zip(
        reasons, ["has 2 entries in row 1", 'X is [1, "a", 3]', "missing in row 3", "row 4", "X is 2;"], strict=True
    ):
        assert text in reason


BAD = {  # what a cell becomes, and what its reason says
    20: ("x", "abc", "'abc'"),
    21: ("x", "", "row 21"),
    22: ("x", "inf", "x is inf in row 22"),
    350: ("group", "9", "a level that the model has never seen"),
    351: ("group", "1.5", "1.5"),
    699: ("x", "1e", "'1e'"),
}


def test_bad_rows_of_a_csv_go_to_a_file_with_their_reasons(quick, tmp_path, capsys):
    table = rows(COUNT).astype(str)
    for row, (column, cell, _) in BAD.items():
        table.loc[row, column] = cell
    lines = table.to_csv(index=False).splitlines()
    lines[1 + 500] += ",too,many"
    (tmp_path / "in.csv").write_text("\n".join(lines) + "\n")
    arguments = [str(quick), str(tmp_path / "in.csv"), str(tmp_path / "out.parquet"), "--keep", "id,name"]
    status = cli.main(["score", *arguments, "--rejects", str(tmp_path / "bad.jsonl"), "--chunk-rows", "100"])
    assert status == 3
    out = capsys.readouterr()
    assert out.out.startswith(f"{COUNT - 7} rows in ")
    assert "probinfer: 7 rows were rejected" in out.err
    bad = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert [fault["row"] for fault in bad] == [20, 21, 22, 350, 351, 500, 699]
    for fault in bad:
        if fault["row"] == 500:
            assert "has 6 cells; wanted 4" in fault["reason"]
            assert fault["held"] == lines[501]
        else:
            assert BAD[fault["row"]][2] in fault["reason"]
            assert fault["held"]["id"] == int(table["id"][fault["row"]])
    good = rows(COUNT).drop(index=[*BAD, 500]).reset_index(drop=True)
    assert_predicted(quick, read(tmp_path / "out.parquet"), good)
    assert cli.main(["score", *arguments]) == 2  # without a file for them, the first is an error


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".jsonl"])
def test_bad_rows_of_typed_tables(quick, tmp_path, suffix):
    table = rows(COUNT)
    table.loc[[5, 6, 399], "x"] = [np.nan, np.inf if suffix != ".jsonl" else np.nan, np.nan]
    table.loc[[400, 401], "group"] = [-1, 4]
    source = write(table, tmp_path / f"in{suffix}")
    done = score(quick, source, tmp_path / "out.csv", keep=["id", "name"], rejects=tmp_path / "bad", chunk_rows=100)
    assert (done.rows, done.rejected) == (COUNT - 5, 5)
    bad = [json.loads(line) for line in (tmp_path / "bad").read_text().splitlines()]
    assert [fault["row"] for fault in bad] == [5, 6, 399, 400, 401]
    assert all(f"row {fault['row']}" in fault["reason"] for fault in bad)
    assert not any("missing={" in fault["reason"] for fault in bad)  # an argument of predict, not of score
    assert_predicted(quick, read(tmp_path / "out.csv"), table.drop(index=[5, 6, 399, 400, 401]))


def test_every_row_bad_is_a_table_without_rows(quick, tmp_path):
    source = write(rows(50).assign(group=77), tmp_path / "in.parquet")
    done = score(quick, source, tmp_path / "out.parquet", keep=["id"], rejects=tmp_path / "bad.jsonl")
    assert (done.rows, done.rejected) == (0, 50)
    assert list(read(tmp_path / "out.parquet").columns)[:3] == ["id", "mean", "sd"]


def test_a_wrong_call_is_not_fifty_bad_rows(quick, tmp_path):
    source = write(rows(50), tmp_path / "in.parquet")
    for wrong in ({"level": 1.5}, {"quantiles": (2.0,)}):
        with pytest.raises(pi.PredictionError):
            score(quick, source, tmp_path / "out.csv", rejects=tmp_path / "bad.jsonl", **wrong)
    assert not (tmp_path / "bad.jsonl").exists()


def test_a_failed_run_leaves_no_rejects(quick, tmp_path):
    (tmp_path / "bad.jsonl").write_text("what was here before")
    lines = ['{"x": 1, "group": 1, "id": 1}', '{"x": "a", "group": 1, "id": 2}', '{"x": 1, "group": 1, "id": "three"}']
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    with pytest.raises(pi.DataError, match="change their types between its pieces"):
        score(
            quick,
            tmp_path / "in.jsonl",
            tmp_path / "out.csv",
            keep=["id"],
            rejects=tmp_path / "bad.jsonl",
            chunk_rows=1,
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.jsonl", "in.jsonl"]
    assert (tmp_path / "bad.jsonl").read_text() == "what was here before"


@pytest.mark.parametrize("block", [100, 200, 4000])
def test_lines_with_too_many_cells_are_counted_where_they_stand_whatever_the_blocks(tmp_path, monkeypatch, block):
    """The reader parses blocks ahead of the rows that it gives: a fault must not be lost, nor move other rows."""
    monkeypatch.setattr(tables, "_BLOCK", block)
    path, odd = tmp_path / "rows.csv", [0, 1, 50, 51, 99]
    path.write_text("id,x\n" + "".join(f"{row},0.5{',9' if row in odd else ''}\n" for row in range(100)))
    types = {"id": pa.int64(), "x": pa.float64()}
    chunks = list(read_chunks(path, types, 7, lenient=True))
    good = [row for row in range(100) if row not in odd]
    assert [number for each in chunks for number in each.numbers] == good
    assert [int(held) for each in chunks for held in each.rows["id"].to_pylist()] == good
    assert [fault.row for each in chunks for fault in each.faults] == odd
    resumed = [fault.row for each in read_chunks(path, types, 7, skip=51, lenient=True) for fault in each.faults]
    assert resumed == [51, 99]


@pytest.mark.parametrize("row", [0, 20, 50, 99])
def test_a_line_with_too_many_cells_ends_a_run_without_rejects_wherever_it_stands(tmp_path, monkeypatch, row):
    monkeypatch.setattr(tables, "_BLOCK", 200)
    path = tmp_path / "rows.csv"
    path.write_text("id,x\n" + "".join(f"{each},0.5{',9' if each == row else ''}\n" for each in range(100)))
    with pytest.raises(pi.DataError, match=f"Row {row} .* has 3 cells; wanted 2"):
        list(read_chunks(path, {"id": pa.int64(), "x": pa.float64()}, 1000))


@pytest.mark.parametrize("lenient", [False, True])
def test_a_quoted_cell_may_hold_lines_that_look_like_rows_whatever_the_blocks(tmp_path, monkeypatch, lenient):
    monkeypatch.setattr(tables, "_BLOCK", 200)
    path = tmp_path / "rows.csv"
    path.write_text("id,note,x\n" + "".join(f'{row},"first\n7,second,7\nthird",0.5\n' for row in range(100)))
    types = {"id": None, "x": pa.float64()}
    chunks = list(read_chunks(path, types, 7, lenient=lenient))
    assert [held for each in chunks for held in each.rows["id"].to_pylist()] == list(range(100))
    assert not any(each.faults for each in chunks)


@pytest.mark.parametrize("lenient", [False, True])
def test_a_quotation_mark_that_is_never_closed_is_told(quick, tmp_path, monkeypatch, lenient):
    path, rejects = tmp_path / "rows.csv", tmp_path / "rejects.jsonl"
    path.write_text('x,note,group\n1,"never closed,0\n' + "1,b,0\n" * 100)
    if lenient:  # what follows is one cell
        done = score(quick, path, tmp_path / "out.csv", rejects=rejects)
        assert (done.rows, done.rejected) == (0, 1)
    else:
        with pytest.raises(pi.DataError, match=r"Row 0 .* has 2 cells; wanted 3"):
            score(quick, path, tmp_path / "out.csv")
    monkeypatch.setattr(tables, "_BLOCK", 200)
    with pytest.raises(pi.DataError, match="a quotation mark is opened and never closed"):
        score(quick, path, tmp_path / "out.csv", rejects=rejects if lenient else None)


@pytest.mark.parametrize("lenient", [False, True])
def test_whole_numbers_of_a_csv_may_be_written_as_floats(quick, tmp_path, lenient):
    """As pandas writes them where the column has a missing value."""
    (tmp_path / "in.csv").write_text("x,group\n0.5,2\n0.25,1.0\n-1,3.\n")
    score(quick, tmp_path / "in.csv", tmp_path / "out.csv", rejects=tmp_path / "bad.jsonl" if lenient else None)
    expected = LOADED(quick).predict({"x": [0.5, 0.25, -1.0], "group": [2, 1, 3]})
    np.testing.assert_allclose(read(tmp_path / "out.csv")["mean"], expected.mean, rtol=1e-12)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("1,1.5,0", "group is '1.5' in row 3 .*; wanted a whole number"),
        ("abc,1,0", "x is 'abc' in row 3 .*; wanted a number"),
        ('"1,000",1,0', "x is '1,000' in row 3"),
        ("1,1", "Row 3 .* has 2 cells; wanted 3"),
        ("1,1,0,0", "Row 3 .* has 4 cells; wanted 3"),
    ],
)
def test_without_a_file_for_rejects_the_first_bad_row_of_a_csv_is_named(quick, tmp_path, line, text):
    (tmp_path / "in.csv").write_text("x,group,id\n1,2.0,0\n1,1,0\n1,1,0\n" + line + "\n")
    with pytest.raises((pi.DataError, pi.PredictionError), match=text):
        score(quick, tmp_path / "in.csv", tmp_path / "out.csv", keep=["id"])


LATE = 2**18  # lines; the first megabytes do not tell what the last line holds


@pytest.mark.parametrize(
    ("early", "late", "kind"),
    [
        ("1", "2.5", pa.float64()),
        ("1", "abc", pa.string()),
        ("", "abc", pa.string()),
        ("007", "8", pa.string()),
        ("1", "12345678901234567890", pa.string()),
        ("2020-01-01", "2020-01-01 10:00:00", pa.timestamp("s")),
        ("true", "maybe", pa.string()),
    ],
)
def test_what_a_csv_column_holds_is_told_by_all_of_its_cells(tmp_path, early, late, kind):
    (tmp_path / "in.csv").write_text("id,more\n" + f"{early},{'-' * 40}\n" * LATE + f"{late},\n")
    (tmp_path / "other.csv").write_text(f"more,id\n,{early}\n")
    assert csv_types([tmp_path / "in.csv", tmp_path / "other.csv"], ["id"]) == {"id": kind}
    found = [chunk.rows.column("id") for chunk in read_chunks(tmp_path / "in.csv", {"id": None}, LATE)]
    assert {column.type for column in found} == {kind}
    assert str(found[-1][-1]) == (late if kind == pa.string() else str(pa.scalar(late).cast(kind)))


def test_ids_are_copied_as_they_stand(quick, tmp_path):
    ids = ["007", "08", "12345678901234567890"]
    (tmp_path / "in.csv").write_text("x,group,id\n" + "".join(f"1,1,{each}\n" for each in ids))
    score(quick, tmp_path / "in.csv", tmp_path / "out.parquet", keep=["id"])
    assert list(read(tmp_path / "out.parquet")["id"]) == ids
    numbers = pa.array([decimal.Decimal(9007199254740993)], pa.decimal128(20, 0))
    pq.write_table(pa.table({"x": [1.0], "group": [1], "id": numbers}), tmp_path / "in.parquet")
    score(quick, tmp_path / "in.parquet", tmp_path / "out.csv", keep=["id"])
    assert (tmp_path / "out.csv").read_text().splitlines()[1].startswith('"9007199254740993"')


@pytest.mark.parametrize("lenient", [False, True])
def test_a_line_of_json_may_lack_a_name_that_others_have(quick, tmp_path, lenient):
    (tmp_path / "in.jsonl").write_text('{"x": 1}\n{"x": 1, "group": 1}\n')
    if lenient:
        done = score(quick, tmp_path / "in.jsonl", tmp_path / "out.csv", rejects=tmp_path / "bad.jsonl")
        assert (done.rows, done.rejected) == (1, 1)
        return
    with pytest.raises(pi.PredictionError, match="group is nan in row 0"):
        score(quick, tmp_path / "in.jsonl", tmp_path / "out.csv")


@pytest.mark.parametrize("text", ['[{"x": 1, "group": 1}]', '{\n"x": 1,\n"group": 1\n}'])
def test_json_that_is_no_lines_of_json(quick, tmp_path, text):
    (tmp_path / "in.jsonl").write_text(text)
    with pytest.raises(pi.DataError, match=r"No line is a record: .* Wanted are lines that hold"):
        score(quick, tmp_path / "in.jsonl", tmp_path / "out.csv")


def test_json_lines_may_hold_of_all_kinds_under_one_name(quick, tmp_path):
    lines = ['{"x": 1, "group": 1, "id": 1}', '{"x": 1, "group": 1, "id": 2.5}', '{"x": 1, "group": 1, "id": "c"}']
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    score(quick, tmp_path / "in.jsonl", tmp_path / "out.jsonl", keep=["id"], chunk_rows=1)
    assert [json.loads(line)["id"] for line in (tmp_path / "out.jsonl").read_text().splitlines()] == [1, 2.5, "c"]


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize(
    ("suffix", "held", "kind"),
    [
        (".csv", [1.0], "list<"),
        (".csv", {"a": 1}, "struct<"),
        (".csv", b"\xff", "binary"),
        (".jsonl", b"\xff", "binary"),
    ],
)
def test_columns_that_a_format_cannot_hold(quick, tmp_path, suffix, held, kind, resume):
    source, output = tmp_path / "in.parquet", tmp_path / f"out{suffix}"
    pq.write_table(pa.table({"x": [1.0], "group": [1], "more": [held]}), source)
    with pytest.raises(pi.DataError, match=f"The column more to keep holds {kind}.* which a {suffix} file cannot hold"):
        score(quick, source, output, keep=["more"], resume=resume)
    assert score(quick, source, tmp_path / "out.parquet", keep=["more"], resume=resume).rows == 1


def test_a_file_that_was_cut_off_is_named(quick, tmp_path):
    table = pa.Table.from_pandas(rows(1000), preserve_index=False)
    with pa.ipc.new_stream(tmp_path / "whole.arrow", table.schema) as writer:
        writer.write_table(table)
    content = (tmp_path / "whole.arrow").read_bytes()
    (tmp_path / "in.arrow").write_bytes(content[: len(content) // 2])
    with pytest.raises(pi.DataError, match=r"in\.arrow is damaged or not complete: .* Copy it again"):
        score(quick, tmp_path / "in.arrow", tmp_path / "out.csv")


def test_an_output_in_the_folder_that_is_the_input_is_refused(quick, tmp_path):
    """The next run would read it; one that goes on could not, as its parts would be input that changed."""
    write(rows(3), tmp_path / "rows/a.parquet")
    for output in ("rows/out.parquet", "rows/deep/out/"):
        with pytest.raises(pi.DataError, match=r"lies in .*rows, whose files are the input"):
            score(quick, tmp_path / "rows", f"{tmp_path}/{output}", resume=output.endswith("out/"))
    assert len(list((tmp_path / "rows").iterdir())) == 1


def test_a_name_alone_is_a_list_of_one(quick, tmp_path):
    source = write(rows(3), tmp_path / "in.csv")
    done = score(quick, source, tmp_path / "out.csv", keep="id", chunk_rows=np.int64(2), level=np.float32(0.5))
    assert done.rows == 3
    assert list(read(tmp_path / "out.csv").columns)[:2] == ["id", "mean"]


def test_a_table_without_rows_has_the_types_of_its_columns(quick, tmp_path):
    source = write(rows(3).iloc[:0], tmp_path / "in.parquet")
    score(quick, source, tmp_path / "out.parquet", keep=["id", "name"])
    assert pq.read_schema(tmp_path / "out.parquet").field("id").type == pa.int64()


LINES = [
    b'{"x": 0.5, "group": 1, "id": "a"}',
    b"not json",
    b"",
    b"[1, 2]",
    b'{"x": "1", "group": 1, "id": "c"}',
    b'{"group": 2.0, "x": 1, "id": {"deep": 1}}',
    b'{"x": NaN, "group": 1}',
    b"[" * 100_000,
    b'{"x": 1e999, "group": 1}',
    b'{"x": 1, "group": 99999999999999999999999}',
    b'{"x": -0.5, "group": 0}',
]


def test_lines_of_json_whatever_they_hold(quick, tmp_path):
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(LINES))
    with pytest.raises(pi.DataError, match=r"In row 1 \(the first row is row 0\) the line is no JSON"):
        score(quick, tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    done = score(quick, tmp_path / "in.jsonl", tmp_path / "out.jsonl", keep=["id"], rejects=tmp_path / "bad.jsonl")
    assert (done.rows, done.rejected) == (3, 7)
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    expected = LOADED(quick).predict({"x": [0.5, 1.0, -0.5], "group": [1, 2, 0]})
    np.testing.assert_allclose([line["mean"] for line in found], expected.mean, rtol=1e-12)
    assert [line["id"] for line in found] == ["a", '{"deep": 1}', None]
    bad = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert [fault["row"] for fault in bad] == [1, 2, 3, 5, 6, 7, 8]
    assert bad[0]["held"] == "not json"
    assert bad[2]["held"] == {"x": "1", "group": 1, "id": "c"}
    assert (bad[3]["held"]["x"], bad[5]["held"]["x"]) == ("NaN", "Infinity")
    assert not any(word in (tmp_path / "bad.jsonl").read_text() for word in (": NaN", ": Infinity"))  # strict JSON


def test_numbers_that_are_not_finite_are_null_in_lines():
    from probinfer.deploy.jsonlines import to_lines

    lines = to_lines(pa.table({"a": [1.0, math.nan, math.inf], "b": ["é", None, "x\ny"]})).decode().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"a": 1.0, "b": "é"},
        {"a": None, "b": None},
        {"a": None, "b": "x\ny"},
    ]


@pytest.mark.long
def test_a_pipe_is_answered_line_by_line_before_it_ends(quick):
    process = subprocess.Popen(
        [sys.executable, "-m", "probinfer", "score", str(quick), "-", "-", "--keep", "id"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    killer = threading.Timer(300, process.kill)  # a pipe that is not answered would wait for ever
    killer.start()
    for number in range(3):
        process.stdin.write(b'{"id": %d, "x": 0.25, "group": 1}\n' % number)
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["id"] == number
    process.stdin.write(b'{"id": 3, "x": 0.25, "group": 1}')  # the last line need not end
    out, err = process.communicate(timeout=60)
    killer.cancel()
    assert json.loads(out)["id"] == 3
    assert err.decode().startswith("4 rows in ")
    assert process.returncode == 0


def test_nothing_in_is_nothing_out(quick, tmp_path):
    (tmp_path / "none.jsonl").write_text("")
    assert score(quick, tmp_path / "none.jsonl", tmp_path / "out.parquet", keep=["id"]).rows == 0
    assert list(read(tmp_path / "out.parquet").columns)[:2] == ["id", "mean"]


@pytest.mark.parametrize(
    ("call", "text"),
    [
        ({"output": "-", "resume": True}, "standard output cannot be resumed"),
        ({"table": "t"}, "A table belongs to a database as output"),
        ({"key": "id"}, "A query and its key belong to a database"),
        ({"output": "mysql://h/d", "table": "t"}, "wanted postgresql://…, sqlite:///FILE or duckdb:///FILE"),
        ({"output": "sqlite:///a.db"}, "say which table to write: --table"),
        ({"output": "duckdb://", "table": "t"}, "in memory, where predictions would be lost"),
        ({"input": "sqlite:///a.db"}, "say which rows: --query"),
        ({"input": "sqlite://a.db", "query": "SELECT 1"}, "after the third slash: sqlite:///a.db"),
        ({"input": "-", "query": "SELECT 1"}, "belong to a database, a file or a folder"),
        ({"output": "."}, "is a folder. To write a folder of parts"),
        ({"if_exists": "append"}, "wanted an IfExists"),
        ({"rejects": "in.csv"}, "is also input or output"),
        ({"rejects": "./out.csv"}, "is also input or output"),  # neither is there yet
        ({"if_exists": IfExists.REPLACE}, r"\(replace\) is a question of databases, and out.csv is none"),
        ({"input": pd.DataFrame()}, "input is DataFrame; wanted the path of a file"),
        ({"input": None}, "input is NoneType"),
        ({"output": ""}, "output is an empty text"),
        ({"output": "sqlite:///a.db", "table": ""}, "say which table to write"),
        ({"keep": [1]}, "keep has 1; wanted names of columns"),
        ({"chunk_rows": 5.0}, "chunk_rows is 5.0; wanted a whole number"),
        ({"rejects": "."}, r"\. is a folder; wanted the name of a file for the rejects"),
    ],
)
def test_calls_that_are_refused_before_any_work(quick, tmp_path, monkeypatch, call, text):
    monkeypatch.chdir(tmp_path)
    write(rows(3), tmp_path / "in.csv")
    with pytest.raises(pi.DataError, match=text):
        score(**{"path": quick, "input": "in.csv", "output": "out.csv", **call})
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]


def test_a_database_that_is_not_there_is_not_made_by_reading_it(quick, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for url in ("sqlite:///none.db", "duckdb:///none.duck"):
        with pytest.raises(FileNotFoundError, match=r"none\.d"):
            score(quick, url, "out.csv", query="SELECT 1 AS x, 1 AS 'group'")
    assert not list(tmp_path.iterdir())


def test_columns_that_cannot_both_be_written_and_options_without_effect(quick, tmp_path, capsys):
    source = write(rows(3).assign(mean=1.0), tmp_path / "in.csv")
    with pytest.raises(pi.DataError, match="column mean to keep is called like one of the predictions"):
        score(quick, source, tmp_path / "out.csv", keep=["mean"])
    call = ["score", str(quick), str(source), str(tmp_path / "out.csv"), "--if-exists", "fail"]
    assert cli.main(call) == cli.WRONG
    assert "--if-exists is nothing for a file" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]


@pytest.mark.parametrize(("sign", "word"), [(";", "semicolons"), ("\t", "tabs")])
def test_a_csv_with_other_separators_is_told_how_to_convert_it(quick, tmp_path, sign, word):
    rows(3).to_csv(tmp_path / "in.csv", index=False, sep=sign)
    with pytest.raises(pi.DataError, match=f"is separated by {word}; wanted commas") as refused:
        score(quick, tmp_path / "in.csv", tmp_path / "out.csv")
    assert f"sep={sign!r}" in str(refused.value)


@pytest.mark.parametrize("name", [" x", "X"])
def test_a_name_that_differs_in_spaces_or_capitals_is_pointed_out(quick, tmp_path, name):
    source = write(rows(3).rename(columns={"x": name}), tmp_path / "in.csv")
    with pytest.raises(pi.PredictionError, match=f"The rows lack x; .* letter: '{name}' is not 'x'"):
        score(quick, source, tmp_path / "out.csv")


@pytest.mark.parametrize("lenient", [False, True])
def test_text_that_is_not_utf_8_is_named_with_what_to_do(quick, tmp_path, lenient):
    table, source = rows(3).assign(name="Zürich"), tmp_path / "in.csv"
    more = {"rejects": tmp_path / "bad.jsonl"} if lenient else {}
    for encoding, keep, text in [
        ("utf-16", [], "in.csv is not UTF-8; it is UTF-16. Convert it: iconv -f UTF-16"),
        ("utf-32", [], "it is UTF-32"),
        ("latin-1", ["name"], "The column name of .*in.csv is not UTF-8; perhaps it is Latin-1"),
    ]:
        source.write_bytes(table.to_csv(index=False).encode(encoding))
        with pytest.raises(pi.DataError, match=text):
            score(quick, source, tmp_path / "out.csv", keep=keep, **more)
    assert score(quick, source, tmp_path / "out.csv", **more).rows == 3  # nobody reads the column
    source.write_bytes(table.to_csv(index=False).encode("utf-8-sig"))
    score(quick, source, tmp_path / "out.csv", keep=["name"], **more)
    assert list(read(tmp_path / "out.csv")["name"]) == ["Zürich"] * 3


def test_folders_that_hold_no_table(quick, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(pi.DataError, match="holds no files of a known format"):
        score(quick, tmp_path / "empty", tmp_path / "out.csv")
    write(rows(3), tmp_path / "mixed/a.csv")
    write(rows(3), tmp_path / "mixed/b.parquet")
    with pytest.raises(pi.DataError, match=r"files of the formats .csv, .parquet; wanted files of one"):
        score(quick, tmp_path / "mixed", tmp_path / "out.csv")
    write(rows(3), tmp_path / "lacking/a.parquet")
    write(rows(3).drop(columns="x"), tmp_path / "lacking/b.parquet")
    with pytest.raises(pi.DataError, match=r"b.parquet lacks x, which other files"):
        score(quick, tmp_path / "lacking", tmp_path / "out.csv")


def test_reading_predicting_and_writing_overlap():
    """Steps that wait for one another: in turns they would never end."""
    gates = [threading.Event() for _ in range(3)]

    def numbers():
        yield 0
        assert gates[0].wait(30)  # until the first is being worked on, the second is not even read
        gates[1].set()
        yield 1

    def worked(item):
        gates[item].set()
        if item == 0:
            assert gates[1].wait(30)
            assert gates[2].wait(30)  # until the second is being worked on, too
        else:
            gates[2].set()
        return item

    with ahead(numbers(), worked) as results:
        assert list(results) == [0, 1]


def test_what_is_done_is_handed_on_while_the_next_is_not_there():
    """As in a pipe, whose other end asks again only once it has its answer."""
    answered = threading.Event()

    def numbers():
        yield 1
        assert answered.wait(30)
        yield 2

    with ahead(numbers(), float) as results:
        assert next(results) == 1.0
        answered.set()
        assert list(results) == [2.0]


@pytest.mark.parametrize("reading", [True, False])
def test_an_error_ahead_is_raised_where_its_item_would_have_come(reading):
    closed = threading.Event()

    def numbers():
        try:
            yield 1
            if reading:
                raise ValueError("here")
            yield 2
            yield 3
        finally:
            closed.set()

    def worked(item):
        if item == 2:
            raise ValueError("here")
        return item

    with ahead(numbers(), worked) as items:
        assert next(items) == 1
        with pytest.raises(ValueError, match="here"):
            next(items)
    assert closed.is_set()


def test_leaving_early_stops_the_work():
    made = []

    def numbers():
        for number in range(10**9):
            made.append(number)
            yield number

    with ahead(numbers(), float) as items:
        assert next(items) == 0
    assert len(made) <= 7
    assert not any("probinfer-ahead" in thread.name for thread in threading.enumerate())


@pytest.mark.parametrize(
    "values",
    [
        np.arange(20) % 3 == 0,
        (np.arange(20) % 3 == 0)[::-3],
        np.zeros(0, bool),
        np.arange(12.0).reshape(6, 2)[:, 1],
        np.arange(6)[::-1],
        np.array([1.0, np.nan, -0.0], ">f8"),
        np.array(["a", None, "b"], object),
        np.array(["a", "bc"]),
    ],
)
def test_columns_are_what_arrow_makes_of_arrays(values):
    column = column_of(values)
    column.validate(full=True)
    expected = pa.array(values.tolist(), None if len(values) else pa.bool_())
    assert column.type == expected.type
    assert str(column) == str(expected)  # where no number is equal to itself


def test_ctrl_c_never_comes_where_a_lock_of_pythons_is_taken(monkeypatch):
    """It may come between the taking of a `Condition` and the block that gives it back; the threads that read and
    predict would then wait for it without end."""
    enter = threading.Condition.__enter__

    def entered(condition):
        assert threading.get_ident() != threading.main_thread().ident
        return enter(condition)

    with ahead(iter(range(100)), float) as items, monkeypatch.context() as patched:
        patched.setattr(threading.Condition, "__enter__", entered)
        assert list(items) == list(range(100))


def test_ctrl_c_while_the_reader_is_waited_for_leaves_no_threads_behind(monkeypatch):
    """A second Ctrl-C: the first one brought us to where it is waited for."""
    join, came = threading.Thread.join, []

    def interrupted(thread, timeout=None):
        if thread.name == "probinfer-ahead" and not came:
            came.append(thread)
            raise KeyboardInterrupt
        join(thread, timeout)

    def left_early():
        with ahead(iter(range(100)), float) as items:
            next(items)
            monkeypatch.setattr(threading.Thread, "join", interrupted)

    with pytest.raises(KeyboardInterrupt) as raised:
        left_early()
    join(came[0], 30)
    assert not any("probinfer-ahead" in thread.name for thread in threading.enumerate())
    assert raised.tb is not None  # whose frames would hold the threads


@pytest.mark.parametrize("name", ["a.csv", "a.parquet", "a/"])
def test_ctrl_c_while_a_run_is_given_up_leaves_no_partial_file(quick, tmp_path, monkeypatch, name):
    """A second Ctrl-C, while a format's writer puts what it holds into the file that is to be removed."""

    def interrupted(self):
        raise KeyboardInterrupt

    table = rows(COUNT)
    table.loc[500, "x"] = np.inf
    source = write(table, tmp_path / "in.parquet")
    monkeypatch.setattr(Writer, "close", interrupted)
    with pytest.raises(KeyboardInterrupt):
        score(quick, source, f"{tmp_path}/{name}", chunk_rows=100)
    assert [path.name for path in tmp_path.iterdir()] == ["in.parquet"]


def test_progress_says_rows_speed_and_time_left(quick, tmp_path, monkeypatch):
    from probinfer.inference import progress

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(progress, "_INTERVAL", 0.0)
    monkeypatch.setattr(sys, "stderr", Terminal())
    source = write(rows(COUNT), tmp_path / "in.parquet")
    score(quick, source, tmp_path / "out.csv", chunk_rows=100)
    assert "700 rows" in sys.stderr.getvalue()
    assert " rows/s" in sys.stderr.getvalue()
    assert " s left" in sys.stderr.getvalue()
    assert os.path.getsize(tmp_path / "out.csv") > 0


def test_a_long_parquet_file_is_not_kept_in_memory(tmp_path):
    """Of 40 row groups of 0.8 MB, no more than a few at a time, and no more at the end than at the beginning."""
    schema = pa.schema([(f"c{i}", pa.float64()) for i in range(5)])
    rng = np.random.default_rng(0)
    with pq.ParquetWriter(tmp_path / "long.parquet", schema) as writer:
        for _ in range(40):
            writer.write_table(pa.table({name: rng.normal(size=20_000) for name in schema.names}, schema=schema))
    before, held = pa.total_allocated_bytes(), []
    for chunk in read_chunks(tmp_path / "long.parquet", dict.fromkeys(schema.names), 10_000):
        held.append(pa.total_allocated_bytes() - before)
        assert chunk.rows.num_rows == 10_000
    assert len(held) == 80
    assert max(held) < 8e6
    assert max(held[-10:]) < 1.5 * max(held[5:15])


def test_numbers_that_are_all_different_are_written_without_a_dictionary(tmp_path):
    n = 5000
    table = pa.table({"id": np.arange(n), "mean": np.random.default_rng(0).normal(size=n), "level": np.full(n, 0.9)})
    path = tmp_path / "numbers.parquet"
    with path.open("wb") as file:
        writer = Writer(file, ".parquet", {})
        for start in range(0, n, 1000):
            writer.write(table.slice(start, 1000))
        writer.close()
    assert pq.read_table(path).equals(table)
    group = pq.ParquetFile(path).metadata.row_group(0)
    encodings = {group.column(i).path_in_schema: group.column(i).encodings for i in range(3)}
    assert "RLE_DICTIONARY" in encodings["level"]
    assert "RLE_DICTIONARY" not in encodings["mean"]
