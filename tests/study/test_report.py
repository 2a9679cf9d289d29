"""The report is one sound file that says what the results say."""

import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import pytest

from frontload.study import results as models
from frontload.study.analysis import analyze
from frontload.study.report import write_report
from frontload.study.report.render import render
from frontload.study.report.strips import scale_of, strip
from tests.study.made_runs import make_run
from tests.study.made_specs import quickstart_like

VOID = {"meta", "br", "link", "img", "hr", "input"}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    spec = quickstart_like(seeds=3, items=12)
    runs, plan = make_run(spec, tmp_path_factory.mktemp("run"))
    return analyze(spec, runs, plan=plan)


@pytest.fixture(scope="module")
def page(results):
    return render(results)


class Balanced(HTMLParser):
    """Fails on a tag that closes what was not open."""

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def svgs(page):
    return re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)


def test_tags_are_balanced(page):
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []


def test_figures_are_sound_svg_with_text_as_text(page):
    found = svgs(page)
    assert len(found) > 40
    for svg in found:
        ElementTree.fromstring(svg)
    assert "M_LDQ, SFT 2×" in page
    assert "own: accuracy" in page


def test_nothing_is_loaded_and_nothing_runs(page):
    assert "<script" not in page
    assert "<link" not in page
    outside = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?(?!["'#])([^"')\s>]+)""", page)
    assert outside == []
    assert set(re.findall(r"https?://[^\"\s<]+", page)) <= {"http://www.w3.org/1999/xlink"}


def test_all_colors_follow_the_page(page):
    figures = "".join(svgs(page))
    assert "#a000" not in figures
    assert "var(--c1)" in figures
    assert not re.findall(r"(?:fill|stroke): ?#(?!000000|ffffff)", figures)


def test_every_claim_is_there_with_its_verdict(results, page):
    text = re.sub(r"\s+", " ", page)
    for contrast in results.contrasts:
        start = text.index(f'class="claim">{contrast.name} <')
        end = text.index("</article>", start)
        assert f'<span class="verdict {contrast.verdict}">' in text[start:end]


def test_verdicts_come_first(page):
    places = [
        page.index(f'<h2 id="{part}"') for part in ("verdicts", "scores", "budgets", "caveats")
    ]
    assert places == sorted(places)


def test_answers_of_models_cannot_write_html(page):
    assert "?<b>&amp;" not in page
    assert "?&lt;b&gt;&amp;" in page


def test_the_same_results_make_the_same_page(results, page):
    assert render(results) == page


def test_the_file_appears_whole(results, page, tmp_path):
    write_report(results, tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == page
    assert len(list(tmp_path.iterdir())) == 1


def test_one_seed_says_so(tmp_path):
    spec = quickstart_like(seeds=1, items=12)
    runs, _ = make_run(spec, tmp_path)
    text = render(analyze(spec, runs))
    assert "one seed: no claim beyond this run" in text
    assert "verdict supported" not in text


def test_a_study_without_contrasts_or_finished_stages_still_has_a_page(results, tmp_path):
    spec = quickstart_like(seeds=2, items=12)
    runs = {(arm, seed): (tmp_path / "nothing",) for arm in spec.arms for seed in spec.seeds}
    assert "not measured" in render(analyze(spec, runs, failures={"nothing": "disk <full>"}))
    assert "names no contrasts" in render(results.model_copy(update={"contrasts": ()}))


def test_likelihood_leads_where_nothing_was_generated(results):
    stages = tuple(
        stage.model_copy(
            update={
                "outcomes": (),
                "scores": tuple(s for s in stage.scores if s.metric != "accuracy"),
            }
        )
        for stage in results.stages
    )
    text = render(results.model_copy(update={"stages": stages}))
    assert "own: nats per gold token" in text
    assert "own: accuracy" not in text


def test_a_hundredfold_interval_does_not_hide_the_seeds(results):
    contrast = next(c for c in results.contrasts if c.measured)
    wide = contrast.measured.model_copy(update={"low": -1e4, "high": 1e4})
    contrast = contrast.model_copy(update={"measured": wide})
    low, high = scale_of([contrast])
    assert high - low < 1e3
    assert strip(contrast, (low, high)).count('class="arrow"') == 2


def fields(model, seen):
    for name, field in model.model_fields.items():
        seen.add(name)
        for candidate in re.findall(r"results\.(\w+)", str(field.annotation)):
            fields(getattr(models, candidate), seen)
    return seen


def test_every_field_of_the_results_is_documented():
    text = (Path(__file__).parents[2] / "docs" / "results.md").read_text(encoding="utf-8")
    undocumented = {name for name in fields(models.Results, set()) if f"`{name}`" not in text}
    assert undocumented == set()
