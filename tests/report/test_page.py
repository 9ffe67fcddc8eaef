"""The page and its data: nothing from outside, nothing unescaped, everything once."""

import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from attrs import evolve

import fusewire as fw
from fusewire.report import summary
from fusewire.report.collect import label
from fusewire.report.data import GENERATED, Peaks, Report, Roof, plain
from fusewire.report.figures import save_figures
from fusewire.report.page import page, shorten
from tests.report.samples import FUSED, UNFUSED, data, data_of, network, report_of, with_times

NASTY = "</script><script>alert('x')</script><img src=x onerror=alert(1)>&amp;"


@pytest.fixture(scope="module")
def report() -> Report:
    return report_of(network(NASTY), {NASTY: data()}, {"cpu": FUSED, "cpu, unfused": UNFUSED}, name=f"{NASTY}.onnx")


@pytest.fixture(scope="module")
def text(report: Report) -> str:
    pytest.importorskip("jinja2")
    return page(report)


def test_names_are_escaped(text: str, report: Report) -> None:
    assert NASTY not in text and "<img" not in text and "onerror=alert(1)>" not in text
    assert text.count("<script") == 3 and text.count("</script>") == 3
    assert report.targets[0].inputs[0][0] == NASTY


class Tags(HTMLParser):
    """Collects the tags and attributes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]


def test_nothing_comes_from_outside(text: str) -> None:
    page = Tags(text)
    assert not page.tags & {
        "img",
        "link",
        "iframe",
        "object",
        "embed",
        "base",
        "form",
        "audio",
        "video",
        "image",
        "use",
    }
    assert not [name for name, _ in page.attributes if name.startswith("on") or name in ("src", "srcset", "action")]
    assert all(value.startswith("#") for name, value in page.attributes if name in ("href", "xlink:href"))
    assert not re.search(r"url\((?!#)|@import", text.split("<script")[0])
    assert "default-src 'none'" in text and not re.search(r"https?://(?!www\.w3\.org)", text)


def test_the_data_in_the_page_are_those_of_the_report(text: str, report: Report) -> None:
    assert data_of(text) == json.loads(json.dumps(plain(report), allow_nan=False))


def test_texts_are_kept_once(report: Report) -> None:
    assert len(set(report.texts)) == len(report.texts)
    first, second, third, _ = report.targets[0].groups
    assert second.source == third.source != first.source and second.kernel == third.kernel != first.kernel
    assert second.loops == third.loops and second.ir == third.ir
    assert second.source is not None and second.kernel in report.texts[second.source]


def test_regions(report: Report) -> None:
    assert [r.label for r in report.regions] == ["conv2d + add + relu"] * 3 + ["max_pool2d"]
    for region in report.regions:
        for target, (steps, ms) in enumerate(zip(region.groups, region.ms, strict=True)):
            assert ms == pytest.approx(sum(report.targets[target].groups[k].ms or 0 for k in steps))
    group = report.targets[0].groups[0]
    assert group.by == GENERATED and group.implementation == group.candidates[0].name
    assert group.candidates[0].status == "chosen" and group.candidates[-1].reason.startswith("refused: ")


def test_headlines(report: Report) -> None:
    apart = summary.headline(with_times(report, [(1.9, 2.0, 2.1), (2.9, 3.0, 3.5)]))
    assert apart.speed == "cpu is fastest: 1.50 times as fast as cpu, unfused" and apart.clear and apart.agree
    close = summary.headline(with_times(report, [(1.9, 2.0, 3.1), (2.9, 3.0, 3.5)]))
    assert close.speed.startswith("No clear winner: cpu (2.00 ms) and cpu, unfused (3.00 ms)") and not close.clear
    assert close.cause == ""
    second = report.targets[1]
    wrong = evolve(second.outputs[0], difference=0.5, share=0.25, differing=7)
    other = evolve(report, targets=(report.targets[0], evolve(second, outputs=(wrong,))))
    assert summary.headline(other).agreement.startswith("Results differ: cpu, unfused has 7 elements of output_0 ")
    assert not summary.headline(other).agree and "✗" in page(other)


def test_times_that_do_not_fit_together_are_pointed_out(report: Report) -> None:
    fitting = with_times(report, [(t.steps_ms,) * 3 for t in report.targets])
    assert summary.unsteady(fitting) == [] and "busy with other things" not in page(fitting)
    busy = with_times(report, [(report.targets[0].steps_ms,) * 3, (50.0, 50.0, 50.0)])
    assert [text.split(" (")[0] for text in summary.unsteady(busy)] == ["B: cpu, unfused"]
    assert "busy with other things" in page(busy)


def test_what_makes_the_difference(report: Report) -> None:
    regions = tuple(evolve(r, ms=(1.0, 3.0) if "conv" in r.label else (0.5, 0.1)) for r in report.regions)
    first, second = summary.kinds(evolve(report, regions=regions))
    assert (first.label, first.count, first.ms, first.spread) == ("conv2d + add + relu", 3, (3.0, 9.0), 6.0)
    assert (second.label, second.spread) == ("max_pool2d", 0.4)
    slow = with_times(evolve(report, regions=regions), [(4, 4, 4), (9, 9, 9)])
    assert "3 × (conv2d + add + relu): 9.00 ms in cpu, unfused, 3.00 ms in cpu" in summary.headline(slow).cause
    even = tuple(evolve(r, ms=(1.0, 3.0), label=f"part {k}") for k, r in enumerate(report.regions))
    assert summary.headline(evolve(slow, regions=even)).cause == ""  # none makes most of it


def test_roofline_where_peaks_are_known(report: Report) -> None:
    assert "Not known: the peaks" in page(evolve(report, targets=tuple(evolve(t, peaks=None) for t in report.targets)))
    peaks = Peaks(1e11, 1e10, 1e11, "as measured <here>")
    targets = [
        evolve(t, peaks=peaks, groups=tuple(evolve(g, roof=Roof(1000, 500, 0.5, "memory", False)) for g in t.groups))
        for t in report.targets
    ]
    text = page(evolve(report, targets=tuple(targets)))
    assert "as measured &lt;here&gt;" in text and "100 GFLOP/s" in text and "memory: 10 GB/s" in text


def test_groups_have_a_place_under_the_roofline(report: Report) -> None:
    for target in report.targets:
        assert target.peaks and target.peaks.flops > 1e8 and target.peaks.cache > target.peaks.memory / 4
        roofs = [g.roof for g in target.groups]
        assert all(roof and roof.reached > 0 and roof.bound in ("compute", "memory") for roof in roofs)
    convolution = report.targets[0].groups[0].roof
    assert convolution and convolution.flops == 4 * 8 * 8 * (2 * 27 + 2), "products and sums; bias and relu"


@pytest.mark.parametrize("peaks", [None, Peaks(1e11, 1e10, 1e11, "")])
def test_figures(peaks: Peaks | None, report: Report, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    roof = Roof(1000, 500, 0.5, "memory", False)
    known = roof if peaks else None
    targets = [evolve(t, peaks=peaks, groups=tuple(evolve(g, roof=known) for g in t.groups)) for t in report.targets]
    files = save_figures(evolve(report, model="$x_$.onnx", targets=tuple(targets)), tmp_path / "new")
    names = ["errors", "kinds", *(["roofline"] if peaks else []), "times"]
    assert sorted(p.stem for p in files) == names == sorted(p.stem for p in (tmp_path / "new").iterdir())
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in files)
    with pytest.raises(fw.FusewireError, match="cannot write"):
        save_figures(report, files[0])


def test_what_is_missing_is_named(report: Report, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(fw.LibraryNotFound, match=r"pip install 'fusewire\[report\]'"):
        page(report)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(fw.LibraryNotFound, match=r"pip install 'fusewire\[report\]'"):
        save_figures(report, tmp_path)


def test_numbers_in_words() -> None:
    assert [summary.ms(t) for t in (None, 0.0, 0.00512, 0.0512, 0.512, 51.23, 512.3, 51230.0)] == [
        "-", "0 ms", "5.12 µs", "51.2 µs", "0.51 ms", "51.2 ms", "512 ms", "51.2 s",
    ]  # fmt: skip
    assert [summary.sizes(n) for n in (0, 1023, 1536, 5 << 20, 3 << 30)] == [
        "0 bytes", "1023 bytes", "1.50 KiB", "5.00 MiB", "3.00 GiB",
    ]  # fmt: skip
    assert [summary.letter(k) for k in (0, 25, 26)] == ["A", "Z", "T27"]
    assert shorten("abcdef", 4) == "abc…" and shorten("abcd", 4) == "abcd"
    assert label(["nn.conv2d", "add", "add", "nn.relu"]) == "conv2d + 2 × add + relu"
    assert label([]) == "copy" and label(list("abcdefg")) == "a + b + c + ... + g"
