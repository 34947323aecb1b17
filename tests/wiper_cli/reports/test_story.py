import pytest

from wiper_cli.reports import FORMATS, render, story


def test_three_numbers_before_and_after(make):
    accuracy, success, robust = story.measures(make("purify_accepted"))
    assert (accuracy.before.value, accuracy.after.value) == (0.931, 0.924)
    assert (success.before.value, success.after.value, success.base.value) == (0.987, 0.012, 0.013)
    assert (robust.before.value, robust.after.value) == (0.013, 0.918)
    assert success.note == "recovered square → class 0 (airplane)"


def test_the_strongest_trigger_before_is_followed_even_if_the_order_changed(make):
    report = make("purify_accepted")
    report["verification"]["after"]["triggers"].reverse()
    assert story.measures(report)[1].after.value == 0.012


def test_a_trigger_is_not_paired_with_another(make):
    report = make("purify_accepted")
    del report["verification"]["after"]["triggers"][0]
    assert story.measures(report)[1].after is None


def test_a_scan_shows_what_it_measured_and_no_more(make):
    assert [measure.name for measure in story.measures(make("scan_clean"))] == ["Clean accuracy"]
    found = story.measures(make("scan_finding"))
    assert [(measure.before.value, measure.after) for measure in found] == [(0.931, None), (0.987, None)]
    assert (story.measures(make("refused")), story.measures(make("inspect"))) == ((), ())


def test_findings_come_gravest_first(make):
    report = make("scan_finding")
    report["findings"].reverse()
    assert [finding["severity"] for finding in story.findings(report)] == ["high", "high", "info"]


def test_evidence_starts_with_measurement_threshold_and_origin(make):
    rows = story.evidence(make("scan_finding"), make("scan_finding")["findings"][0])
    assert rows[:3] == [("statistic", "0.987"), ("threshold", "0.5"), ("threshold origin", "set by hand")]


def test_a_path_is_one_line_with_brackets_around_where_it_joins(make):
    finding = {
        "path": [
            {"operator": "image"},
            {"operator": "Conv", "mark": "weighted"},
            {"operator": "Add", "mark": "join"},
        ]
    }
    assert story.evidence(make("scan_finding"), finding) == [("path", "image → Conv → [Add]")]


def test_what_could_not_run_is_not_done(make):
    rows = dict(story.undone(make("scan_clean")))
    assert rows["One-pixel warp"] == "the file was opened head-only, and this needs gradients"
    assert "Calibrated thresholds" in rows


def test_false_alarms_that_nobody_measured_say_so(make):
    report = make("scan_finding")
    rows = dict(story.detector_rows(report, report["detection"]["detectors"][0]))
    assert rows["false alarms on clean models"] == "not measured"
    assert rows["suspected target"] == "class 0 (airplane)"


@pytest.mark.parametrize("form", [name for name in FORMATS if name != "json"])
def test_of_a_detector_without_a_rate_of_its_own_the_scan_s_is_told_in_every_format(make, form):
    report = make("scan_finding")
    report["detection"]["false_alarms"] = {
        "value": 1 / 22,
        "n": 22,
        "interval": [0.01, 0.22],
        "about": "small ones",
    }
    report["findings"][0]["evidence"]["false_alarm_rate"] = None
    said = "of this detector alone not measured, of all together 1 of 22 honest networks like this one"
    rows = dict(story.detector_rows(report, report["detection"]["detectors"][0]))
    assert rows["false alarms on clean models"] == f"{said} (95 % interval 1 to 22 %)"
    text = " ".join(render(form, [report]).split())
    assert "rate: not measured" not in text
    assert said in text
    assert story.false_alarms(report, 1 / 22).startswith("of this detector alone 1, of all together 1 of 22 ")
    assert story.false_alarms(report, 0.0).startswith("of this detector alone none, of all")
    assert story.false_alarms(make("scan_finding"), 0.125) == "12.5%"


@pytest.mark.parametrize(("index", "said"), [(None, "no class"), (0, "class 0 (airplane)"), (99, "class 99")])
def test_class_names(make, index, said):
    assert story.class_name(make("scan_clean"), index) == said


def test_a_class_name_that_is_its_number_is_not_repeated(make):
    assert story.class_name({"model": {"classes": ["0", "1"]}}, 1) == "class 1"


def test_the_command_can_be_pasted(make):
    assert story.command_line(make("scan_clean")) == "wiper scan models/model.onnx --clean 'clean images'"


def test_reproduction_has_command_digest_seed_versions(make):
    rows = dict(story.reproduce(make("purify_accepted")))
    assert (rows["sha256"], rows["seed"], rows["torch"]) == ("ab" * 32, "0", "2.13.0")
    assert rows["isolation"] == "child, not confined: no confinement yet"


def test_shares_are_percent_and_a_class_is_named_once(make):
    finding = {
        "rule": "WIPER-B03", "severity": "high", "message": "m",
        "evidence": {"success": 1.0, "statistic": 0.5, "target": 0, "images": None, "false_alarm_rate": None},
        "place": {"class": 0, "name": "airplane"},
    }  # fmt: skip
    assert story.evidence(make("scan_clean"), finding) == [
        ("statistic", "0.5"),
        ("false alarm rate", "not measured"),
        ("success", "100.0%"),
        ("class", "class 0 (airplane)"),
    ]


def test_the_sentence_does_not_repeat_the_verdict(make):
    report = make("scan_finding") | {"sentence": "Suspicious: the network behaves oddly."}
    assert story.sentence(report) == "The network behaves oddly."
    report["sentence"] = "Suspicious: "
    assert story.sentence(report) == "Suspicious:"
    report["sentence"] = "Other: words."
    assert story.sentence(report) == "Other: words."


def test_an_explanation_says_what_was_compared_and_what_chance_gives(make):
    rows = dict(story.explanation_rows(make("scan_explained")))
    assert rows["put in class 0 (airplane)"] == "98.0% [95.0–99.2], n = 200; of the clean images 1.0%"
    assert rows["answered with their own class"].startswith("1.5%")
    assert (
        rows["lowest tenth by BS"]
        == "50.0% are among the tenth moved most (chance 9.4%); rank correlation 0.31"
    )
    assert story.explanation_rows(make("scan_finding")) == []


def test_an_explanation_of_unknown_classes(make):
    report = make("scan_explained")
    report["explanation"] |= {"labelled": False, "recovered": None, "moved": []}
    assert "answered with their own class" not in dict(story.explanation_rows(report))


def test_text_and_markdown_say_that_no_verdict_was_made_of_it(make):
    for name in ("text", "markdown"):
        shown = render(name, [make("scan_explained")])
        assert "Triggered images" in shown
        assert "the verdict does not use it" in shown
        assert "Triggered images" not in render(name, [make("scan_finding")])


def test_every_round_of_a_purification_is_told(make):
    report = make("purify_accepted")
    rows = dict(story.purification_rows(report))
    assert rows["round 1"] == (
        "found by max-margin (class 0 (airplane)); 27 transforms unlearned; accuracy 92.8% [90.2–94.8], n = 500; "
        "Not accepted: the probe other shapes still fires."
    )
    assert rows["round 2, kept"].startswith("no detector fired; 51 transforms unlearned; accuracy 92.4%")
    for name in ("text", "html", "markdown"):
        assert "round 2, kept" in render(name, [report])
    del report["purification"]["rounds"][1]
    assert not [name for name, _ in story.purification_rows(report) if name.startswith("round")]


def test_canaries_say_what_was_found_and_what_was_missed(make):
    report = make("scan_clean")
    rows = dict(story.canary_rows(report))
    assert rows["badnet to class 0 (airplane)"].startswith("found by square-probe; works in 98")
    assert rows["blend to class 1 (automobile)"].endswith("cost no accuracy")
    assert rows["blend to class 1 (automobile)"].startswith("missed")
    assert rows["wanet to class 2 (bird)"].startswith("not counted")
    for name in ("text", "html", "markdown"):
        assert "Canaries" in render(name, [report])
    del report["detection"]["canaries"]
    assert story.canary_rows(report) == []
    assert story.canary_rows(make("inspect")) == []
