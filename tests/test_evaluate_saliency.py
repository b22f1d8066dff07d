"""evaluate.py on saliency maps: inputs, files that cannot be scored, and outputs."""

import csv
import json
import re
import shutil

import cv2
import numpy as np
import pytest
from conftest import run_main

from formats.errors import InputError, MissingInputError
from formats.images import image_stems, load_grey, load_mask, save_grey, save_image
from metrics.saliency import measure_map, score_states


@pytest.fixture
def methods(scenes, tmp_path):
    """Two data sets, DRAWN-TE and OTHER; methods `blurred` and `small`, the second with maps of half the size."""
    rng = np.random.default_rng(0)
    shutil.copytree(scenes / "dataset/benchmark", tmp_path / "truth")
    shutil.copytree(tmp_path / "truth/DRAWN-TE", tmp_path / "truth/OTHER")
    for data_set in ("DRAWN-TE", "OTHER"):
        for stem, path in image_stems(tmp_path / "truth" / data_set / "Masks").items():
            mask = load_grey(path)
            noisy = np.clip(mask * 0.7 + rng.integers(0, 80, mask.shape), 0, 255).astype(np.uint8)
            save_grey(tmp_path / f"blurred/{data_set}/{stem}.png", noisy)
            save_grey(tmp_path / f"small/{data_set}/{stem}.png", mask[::2, ::2].copy())
    return tmp_path


@pytest.fixture
def score(methods):
    """Score both methods; HERE stands for their folder."""

    def run(flags: str = "", pred: str = "HERE/blurred HERE/small") -> dict:
        command = f"saliency --pred {pred} --gt_root HERE/truth --json HERE/scores.json {flags}"
        run_main("evaluate", command.replace("HERE", str(methods)))
        return json.loads((methods / "scores.json").read_text())

    return run


def drop_wf(scores):
    """Scores without weighted F, whose float32 sums differ in the last bits from run to run."""
    return {key: drop_wf(value) if isinstance(value, dict) else value for key, value in scores.items() if key != "wF"}


def test_scores_are_those_of_the_metric(methods, score, capsys):
    scores = score()
    for data_set in ("DRAWN-TE", "OTHER"):
        masks = image_stems(methods / "truth" / data_set / "Masks")
        maps = {stem: load_grey(methods / f"blurred/{data_set}/{stem}.png") for stem in masks}
        found = scores[f"{methods}/blurred"][data_set]
        expected = score_states(sum(measure_map(maps[stem], load_mask(path)) for stem, path in masks.items()))
        assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-9)
        assert len(found["curves"]["precision"]) == 256
    assert scores[f"{methods}/small"]["OTHER"]["resized"] == 5
    output = capsys.readouterr().out
    assert "small on OTHER: 5 resized to their truth: " in output
    assert "β² = 0.3" in output
    rows = [line for line in output.splitlines() if line.startswith(f"| {methods}/blurred")]
    assert f"{scores[f'{methods}/blurred']['OTHER']['MAE']:.4f}" in rows[1]
    assert any("β² = 0.3" in line for line in found["conventions"])
    assert found["versions"]["numpy"] == np.__version__


def test_perfect_maps(scenes, tmp_path):
    shutil.copytree(scenes / "dataset/benchmark/DRAWN-TE/Masks", tmp_path / "perfect/DRAWN-TE")
    command = f"saliency --pred {tmp_path}/perfect --gt_root {scenes}/dataset/benchmark --json {tmp_path}/scores.json"
    for flags, least, most in (("", 1, 1), ("--strict_reference", 1.0001, 1.001)):  # N / (N − 1), as in PySODMetrics
        run_main("evaluate", f"{command} {flags}")
        found = json.loads((tmp_path / "scores.json").read_text())[f"{tmp_path}/perfect"]["DRAWN-TE"]
        assert found["MAE"] == 0
        assert least <= found["maxE"] <= most


def test_missing_maps(methods, score, capsys):
    (methods / "small/OTHER").rename(methods / "gone")
    assert "OTHER" not in score()[f"{methods}/small"]
    (methods / "gone").rename(methods / "small/OTHER")
    names = sorted(path.name for path in (methods / "blurred/OTHER").iterdir())
    for name in names[:2]:
        (methods / "blurred/OTHER" / name).unlink()
    stems = ", ".join(name.removesuffix(".png") for name in names[:2])
    with pytest.raises(MissingInputError, match=rf"blurred/OTHER lacks 2 of 5 maps \({stems}\).*--allow_missing"):
        score()
    capsys.readouterr()
    scores = score("--allow_missing")
    found = scores[f"{methods}/blurred"]["OTHER"]
    assert found["images"] == found["files"]["scored"] == 3
    assert found["files"]["missing"] == stems.split(", ")
    assert f"2 missing: {stems}" in capsys.readouterr().out
    for name in names[2:]:
        (methods / "blurred/OTHER" / name).unlink()
    with pytest.raises(MissingInputError, match="lacks 5 of 5"):
        score("--allow_missing")
    (methods / "blurred/OTHER" / names[0].replace(".png", "_sal_fuse.png")).write_bytes(b"")
    with pytest.raises(MissingInputError, match=r"there is .*_sal_fuse\.png, but files must be named <id>\.png"):
        score("--allow_missing")
    with pytest.raises(MissingInputError, match="has no folder of a data set of --gt_root"):
        score(pred="HERE")
    with pytest.raises(MissingInputError, match="nowhere does not exist"):
        score(pred="HERE/nowhere")


def test_outputs_that_cannot_be_written_are_refused_before_the_work(methods, score, capsys):
    (methods / "file").write_text("")
    for flag, reason in (
        ("--json HERE", "is a folder: name a file"),
        ("--report HERE", "is a folder: name a file"),
        ("--tables HERE/file", "is a file: name a folder"),
    ):
        with pytest.raises(InputError, match=reason):
            score(flag)
    assert "MAE" not in capsys.readouterr().out


def test_maps_of_other_depths(methods, score):
    """Of 16-bit maps the upper 8 bits are used, or the lower if the upper are 0; float maps are refused."""
    expected = drop_wf(score(pred="HERE/blurred"))
    first, second, third, *_ = sorted((methods / "blurred/OTHER").iterdir())
    cv2.imwrite(str(first), load_grey(first).astype(np.uint16) * 257)
    cv2.imwrite(str(second), load_grey(second).astype(np.uint16))
    assert drop_wf(score(pred="HERE/blurred")) == expected
    cv2.imwrite(str(third.with_suffix(".tiff")), load_grey(third).astype(np.float32) / 255)
    third.unlink()
    with pytest.raises(InputError, match=r"\.tiff holds float32 values: save it with 8 bits"):
        score(pred="HERE/blurred")


def test_damaged_maps_are_all_reported_and_others_scored(methods, score, capsys):
    paths = sorted((methods / "blurred/OTHER").iterdir())
    paths[0].write_bytes(b"no picture")
    paths[3].write_bytes(paths[3].read_bytes()[:40])
    save_grey(methods / "blurred/OTHER/extra.png", np.zeros((3, 3), np.uint8))
    with pytest.raises(InputError, match=rf"2 images .*\({paths[0].stem}, {paths[3].stem}\): {paths[0]}.*--allow"):
        score("--tables HERE/tables")
    output = capsys.readouterr().out
    assert f"| {methods}/small" in output
    assert "1 extra, not scored: extra" in output
    assert (methods / "tables/saliency.csv").is_file()
    found = score("--allow_missing")[f"{methods}/blurred"]["OTHER"]
    assert list(found["files"]["unusable"]) == [paths[0].stem, paths[3].stem]
    assert found["files"]["extra"] == ["extra"]
    assert found["images"] == 3


def test_a_truth_without_any_object_is_noted(methods, score, capsys):
    for path in (methods / "truth/OTHER/Masks").iterdir():
        save_grey(path, load_grey(path) // 2)
    score()
    noted = [line for line in capsys.readouterr().out.splitlines() if "no mask of the truth holds an object" in line]
    assert [line.partition(":")[0] for line in noted] == [f"{methods}/{name} on OTHER" for name in ("blurred", "small")]


def test_what_is_written(methods, score):
    score("--tables HERE/tables --report HERE/page.html --report_images 3")
    files = {path.name for path in (methods / "tables").iterdir()}
    assert {"tables.md", "tables.tex", "saliency.csv", "saliency_overlap.csv", "intervals.csv"} <= files
    assert {"comparison.csv", "PR_OTHER.png", "F_DRAWN-TE.png", "E_OTHER.png"} <= files
    latex = (methods / "tables/tables.tex").read_text(encoding="utf-8")
    assert latex.count(r"\textbf{") > 10
    page = (methods / "page.html").read_text(encoding="utf-8")
    assert page.count("<article") == 3
    assert "DRAWN-TE" in page


def test_photographs_of_the_page(methods, score):
    """Photographs are found by stem, with any suffix; damaged ones are left out."""
    for path in (methods / "truth/OTHER/Masks", methods / "blurred/OTHER"):
        for number, file in enumerate(sorted(path.iterdir())):
            file.rename(path / f"im.{number}.png")
    shutil.rmtree(methods / "truth/OTHER/Images")
    shutil.rmtree(methods / "blurred/DRAWN-TE")
    for number in range(4):
        save_image(methods / f"truth/OTHER/Images/im.{number}.jpeg", np.full((64, 80, 3), 60 * number, np.uint8))
    (methods / "truth/OTHER/Images/im.2.jpeg").write_bytes(b"no picture")
    score("--report HERE/page.html", pred="HERE/blurred")
    page = (methods / "page.html").read_text(encoding="utf-8")
    assert [f'alt="im.{number}: image"' in page for number in range(5)] == [True, True, False, True, False]
    assert page.count("<article") == 5


def test_worst_images_come_first(methods, score):
    worst = sorted((methods / "blurred/OTHER").iterdir())[2]
    save_grey(worst, 255 - load_grey(worst))
    score("--report HERE/page.html --report_images 1", pred="HERE/blurred")
    page = (methods / "page.html").read_text(encoding="utf-8")
    assert f'data-title="{worst.stem}" data-group="OTHER"' in page


def test_intervals_and_comparison(methods, score):
    scores = score("--bootstrap 200 --tables HERE/tables", pred="HERE/blurred --pred HERE/small")
    for data_sets in (scores[f"{methods}/blurred"], scores[f"{methods}/small"]):
        for found in data_sets.values():
            for name, (low, high) in found["intervals"].items():
                assert low <= found[name] <= high, name
                assert low < high or found[name] == 1, name
            assert found["intervals"].keys() == {"MAE", "maxF", "wF", "S", "maxE"}
    with open(methods / "tables/comparison.csv", encoding="utf-8") as file:
        found_row = next(row for row in csv.DictReader(file) if row["data set"] == "OTHER")
    assert found_row["difference"] == "small − blurred"
    difference = scores[f"{methods}/small"]["OTHER"]["S"] - scores[f"{methods}/blurred"]["OTHER"]["S"]
    assert re.fullmatch(rf"{difference:.4f} \[0\.\d+, 0\.\d+\]", found_row["S"])  # each of five images is better
    assert "intervals" not in score("--bootstrap 0")[f"{methods}/small"]["OTHER"]


def test_scores_do_not_depend_on_the_number_of_processes(scenes, tmp_path):
    masks = list(image_stems(scenes / "dataset/benchmark/DRAWN-TE/Masks").values())
    for number in range(70):
        mask = load_grey(masks[number % len(masks)])
        save_grey(tmp_path / f"truth/MANY/Masks/{number:03}.png", mask)
        save_grey(tmp_path / f"method/MANY/{number:03}.png", np.roll(mask, number, axis=1))
    (tmp_path / "method/MANY/011.png").write_bytes(b"no picture")
    results = []
    for workers in (1, 2):
        command = f"saliency --pred {tmp_path}/method --gt_root {tmp_path}/truth --json {tmp_path}/{workers}.json"
        run_main("evaluate", f"{command} --workers {workers} --allow_missing --bootstrap 50")
        results.append(json.loads((tmp_path / f"{workers}.json").read_text()))
    assert drop_wf(results[0]) == drop_wf(results[1])
    one, two = (result[f"{tmp_path}/method"]["MANY"] for result in results)
    assert one["images"] == 69
    assert one["wF"] == pytest.approx(two["wF"], abs=1e-6)


def test_undefined_scores_of_the_reference_are_null_in_the_file(methods, score):
    """An object in the last corner, for which S of PySODMetrics is NaN."""
    stem = next((methods / "blurred/OTHER").iterdir()).stem
    corner = np.zeros((64, 80), np.uint8)
    corner[63, 79] = 255
    save_grey(methods / f"truth/OTHER/Masks/{stem}.png", corner)
    assert score("--strict_reference")[f"{methods}/blurred"]["OTHER"]["S"] is None
    assert "NaN" not in (methods / "scores.json").read_text()
    assert score()[f"{methods}/blurred"]["OTHER"]["S"] > 0.5
