"""What the README shows is what the package takes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import yaml

from frontload.study.plan import make_plan
from frontload.study.spec import load_spec, parse_spec

ROOT = Path(__file__).parent.parent


def test_the_readmes_spec_is_a_spec() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    written = re.search(r"```yaml\n(.*?)```", readme, flags=re.DOTALL)
    assert written is not None
    plan = make_plan(parse_spec(yaml.safe_load(written[1].replace("    on: ", '    "on": '))))
    assert len(plan.nodes) == 3 * 4


def test_shipped_specs_make_plans() -> None:
    for path in sorted((ROOT / "studies").glob("*.yaml")):
        assert make_plan(load_spec(path)).nodes, path


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from frontload.cli import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'transformers', 'datasets', 'pyarrow', 'matplotlib', 'pydantic'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_links_in_the_docs_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_links_to_headings_find_them() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        text = page.read_text(encoding="utf-8")
        for file, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", text):
            target = page.parent / file if file else page
            headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = [re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings]
            assert anchor in anchors, f"{page.name} links to {file}#{anchor}"
