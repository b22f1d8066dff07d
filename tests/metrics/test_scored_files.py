"""Reports of scored files, and the choice of the worst images."""

from formats.errors import InputError
from metrics.scored_files import FileReport, measure_files, select_worst


def halve(number: int) -> float:
    if number % 2:
        raise InputError(f"{number} is odd")
    return number / 2


def test_files_that_cannot_be_measured_are_reported():
    report = FileReport(missing=["d"])
    assert list(measure_files(halve, {"a": 2, "b": 5, "c": 4}, report, 1, "halves")) == [("a", 1), ("c", 2)]
    assert (report.scored, report.unusable) == (2, {"b": "5 is odd"})
    assert report.summarize() == ["1 missing: d", "1 unusable: 5 is odd"]


def test_select_worst():
    undefined = {"S": float("nan")}
    methods = {
        "one": {"a": {"S": 0.9}, "b": {"S": 0.6}, "c": undefined, "d": undefined},
        "two": {"a": {"S": 0.5}, "c": {"S": 0.8}},
    }
    worst = select_worst(methods, "S", 3)
    assert list(worst) == ["b", "a", "c"]
    assert worst["a"] == {"one": {"S": 0.9}, "two": {"S": 0.5}}
    assert list(select_worst(methods, "S", 9))[-1] == "d"
