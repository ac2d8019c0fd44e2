"""The README tells what was measured, and every page leads where it says."""

import re
import subprocess
from pathlib import Path

import pytest

from nmt import paths, reporting
from nmt.commands.readme import README, with_table
from nmt.files import read_json, read_text

ROOT = Path(__file__).parent.parent


def test_result_table_is_the_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    """The README's result table is what reports/comparison says; `nmt readme` brings it up to date."""
    monkeypatch.chdir(ROOT)
    comparison = read_json(paths.COMPARISON / "comparison.json")
    text = read_text(README)
    assert with_table(text, reporting.readme_table(comparison)) == text


def anchors(text: str) -> set[str]:
    """What headings can be linked as, by the rule of GitHub and GitLab."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_links_between_pages_lead_somewhere() -> None:
    """Each file is in git and each heading in its page."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    pages = [ROOT / name for name in listed if name.endswith(".md")]
    assert len(pages) > 20
    broken = []
    for page in pages:
        for target in re.findall(r"\]\(([^)\s]+)\)", read_text(page)):
            if "://" in target:
                continue
            name, _, anchor = target.partition("#")
            leads_to = (page.parent / name).resolve() if name else page
            known = leads_to.exists() and (not anchor or anchor in anchors(read_text(leads_to)))
            if not known:
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert broken == []
