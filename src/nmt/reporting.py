"""The comparison as text: `comparison.md` and the result table of the README."""

from collections.abc import Mapping
from typing import Any

from nmt import runs
from nmt.corpus import UNSEGMENTED
from nmt.markdown import Format, listing, literal, measured, points, power, signed, small, table, whole

README_BEGIN = "<!-- results:begin -->"
README_END = "<!-- results:end -->"

_LANGUAGES = {"de": "German", "en": "English", "fr": "French", "ja": "Japanese", "zh": "Chinese"}
_TATOEBA = "https://tatoeba.org/sentences/show/"
_NESTED = 3  # dots in the name of a number that has a column of its own
_TITLES = {"bleu": "BLEU", "chrf": "chrF", "ter": "TER"}


def markdown(comparison: Mapping[str, Any]) -> str:
    """Return `comparison.md`; the figures that it shows lie beside it."""
    sections = [
        heading(comparison),
        results(comparison),
        ensembles(comparison),
        by_length(comparison),
        joined(comparison),
        by_frequency(comparison),
        ablations(comparison),
        alignment(comparison),
        tests(comparison),
        attention(comparison),
        examples(comparison),
        signatures(comparison),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def readme_table(comparison: Mapping[str, Any]) -> str:
    """Return the README's result table, a row per variant and per ensemble, and what the tests say."""
    longest = next(iter(comparison["variants"].values()))["by_length"][-1]
    sizes = [row["joined"] for row in next(iter(comparison["variants"].values()))["joined"]]
    header = ["", "parameters", "BLEU", "chrF", "TER", "perplexity"]
    header.append(f"BLEU, {extent(longest)} {unit(comparison)}")
    header += [f"BLEU, {sizes[-1]} sentences in one"] if len(sizes) > 1 else []
    rows = []
    for name, variant in comparison["variants"].items():
        rows.append(readme_row(name, variant["training"]["parameters"]["mean"], variant, len(sizes) > 1))
        if one := comparison.get("ensembles", {}).get(name):
            rows.append(readme_row(ensemble(name, one), one["parameters"], one, len(sizes) > 1))
    return "\n\n".join([table(header, rows), uncertainty(comparison), *verdicts(comparison)])


def readme_row(name: str, parameters: float, report: Mapping[str, Any], joined: bool) -> list[str]:
    """Return the README's row of a variant or an ensemble."""
    scores = report["scores"]
    row = [f"**{name}**", whole(parameters), *(measured(scores[metric], points) for metric in _TITLES)]
    row += [measured(scores["perplexity_per_token"], points), measured(report["by_length"][-1]["bleu"], points)]
    return row + ([measured(report["joined"][-1]["bleu"], points)] if joined else [])


def heading(comparison: Mapping[str, Any]) -> str:
    """Return the title and the sentence that says what was compared."""
    names, seeds = list(comparison["variants"]), comparison["seeds"]
    trained = "trained once" if len(seeds) == 1 else f"trained {len(seeds)} times, with the seeds {listing(seeds)},"
    corpus = comparison["corpus"]
    return (
        f"# {listing(names, capital=True)}\n\n"
        f"{language(corpus['source'])} to {language(corpus['target'])} on the corpus `{corpus['name']}`: each variant "
        f"was {trained} on the same data with the same parameters, but for its attention, and translated the same "
        f"{whole(comparison['sentences'])} test sentences."
    )


def results(comparison: Mapping[str, Any]) -> str:
    """Return the table of all measures, one column per variant."""
    training: list[tuple[str, str, Format]] = [
        ("parameters", "parameters", whole),
        ("updates", "updates", whole),
        ("target tokens read in training", "target_tokens", whole),
        ("floating-point operations of training", "flops", power),
        ("dev loss (nats per token)", "dev_loss", "{:.3f}".format),
    ]
    test: list[tuple[str, str, Format]] = [
        ("perplexity per token", "perplexity_per_token", points),
        (f"perplexity per {unit(comparison, 'target')[:-1]}", "perplexity_per_word", points),
        ("**BLEU**", "bleu", points),
        ("chrF", "chrf", points),
        ("TER (lower is better)", "ter", points),
        ("exact matches", "exact_match", "{:.1%}".format),
    ]
    variants = comparison["variants"].values()
    rows = [["attention", *(variant["attention"] for variant in variants)]]
    for section, lines in (("training", training), ("scores", test)):
        rows += [[title, *(measured(v[section][key], form) for v in variants)] for title, key, form in lines]
    several = comparison["several_references"]
    references = f" {whole(several)} sentences have several references." if several else ""
    return "\n\n".join(
        [
            "## Results",
            table(["", *comparison["variants"]], rows),
            uncertainty(comparison) + references,
            "![Dev loss over the epochs](curves.png)",
        ]
    )


def ensembles(comparison: Mapping[str, Any]) -> str:
    """Return each ensemble below the models that it is made of."""
    rows = []
    for name, one in comparison.get("ensembles", {}).items():
        lines = {f"{name}, seed {run['seed']}": alone(run["scores"]) for run in comparison["variants"][name]["runs"]}
        lines[f"**{ensemble(name, one)}**"] = one["scores"]
        for title, scores in lines.items():
            rows.append([title, *(measured(scores[key], points) for key in (*_TITLES, "perplexity_per_token"))])
    if not rows:
        return ""
    text = (
        "The models of all seeds translate together: each next token is written by the mean of their probabilities. In "
        f"brackets: {comparison['confidence']:.0%} bootstrap intervals over the test sentences."
    )
    return "\n\n".join(["## Ensembles", text, table(["", *_TITLES.values(), "perplexity per token"], rows)])


def ensemble(name: str, one: Mapping[str, Any]) -> str:
    """Return what an ensemble of a variant is called."""
    return f"{name}, ensemble of {one['models']}"


def alone(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Return the scores of one run in the form that a variant's have."""
    return {
        key: {"deviation": None, **({**one, "mean": one["score"]} if isinstance(one, Mapping) else {"mean": one})}
        for key, one in scores.items()
    }


def by_length(comparison: Mapping[str, Any]) -> str:
    """Return BLEU by source length."""
    variants = comparison["variants"].values()
    rows = [
        [extent(classes[0]), whole(classes[0]["sentences"]), *(measured(row["bleu"], points) for row in classes)]
        for classes in zip(*(variant["by_length"] for variant in variants), strict=True)
    ]
    header = [unit(comparison), "sentences", *comparison["variants"]]
    text = "BLEU by the length of the source; the classes are equally large."
    return "\n\n".join(["## By source length", text, table(header, rows), "![BLEU by source length](by_length.png)"])


def joined(comparison: Mapping[str, Any]) -> str:
    """Return BLEU of inputs that hold several sentences, and the gaps to the baseline."""
    variants, baseline = comparison["variants"], comparison["baseline"]
    levels = list(zip(*(variant["joined"] for variant in variants.values()), strict=True))
    if len(levels) < 2:
        return ""
    tested = {name: test["gap"] for name, test in comparison["tests"].items()}
    rows = []
    for index, level in enumerate(levels):
        row = [str(level[0]["joined"]), whole(level[0]["sentences"]), *(measured(one["bleu"], points) for one in level)]
        rows.append(row + [signed(gap["gaps"][index]) for gap in tested.values()])
    header = ["sentences in one input", "inputs", *variants, *(f"{name} − {baseline}" for name in tested)]
    text = (
        "Consecutive test sentences are joined into one input, and BLEU is measured against the pairs' own references "
        "alone, so that the rows can be compared with each other."
    )
    figure = ["![BLEU of joined sentences](joined.png)"] if any(tested.values()) else []
    return "\n\n".join(["## Joined sentences", text, table(header, rows), *figure])


def by_frequency(comparison: Mapping[str, Any]) -> str:
    """Return which share of the reference's words the hypotheses have, by how often training had them."""
    variants, baseline = comparison["variants"], comparison["baseline"]
    tested = {name: test["recall"] for name, test in comparison["tests"].items()}
    rows = []
    for k, classes in enumerate(zip(*(variant["by_frequency"] for variant in variants.values()), strict=True)):
        shares = [measured(row["recall"], share) if row["recall"] else "" for row in classes]
        row = [runs.extent(classes[0]["low"], classes[0]["high"]), whole(classes[0]["words"]), *shares]
        rows.append(row + [effect(several[k], 3) if several[k] else "" for several in tested.values()])
    header = ["times in training", "words", *variants, *(f"{name} − {baseline}" for name in tested)]
    text = (
        "The share of the own reference's words that the hypothesis has, wherever and in whatever case, by how often a "
        "word stands in the training text."
    )
    figure = "![Reference words recalled, by frequency](by_frequency.png)"
    return "\n\n".join(["## Are rare words recalled?", text, table(header, rows), figure])


def ablations(comparison: Mapping[str, Any]) -> str:
    """Return BLEU with the attention disturbed at prediction."""
    there = {name: variant for name, variant in comparison["variants"].items() if variant["ablations"]}
    if not there:
        return ""
    names = next(iter(there.values()))["ablations"]
    rows = [["as trained", *(measured(variant["scores"]["bleu"], points) for variant in there.values())]]
    rows += [[name, *(measured(variant["ablations"][name], points) for variant in there.values())] for name in names]
    text = (
        "BLEU of the same trained models with their attention disturbed while they translate: all source positions "
        "alike (`uniform`), the weights one position too late (`shifted`), the encoder's last state at every step "
        "(`frozen`)."
    )
    figure = "![BLEU with the attention disturbed](ablations.png)"
    return "\n\n".join(["## Attention disturbed", text, table(["attention", *there], rows), figure])


def alignment(comparison: Mapping[str, Any]) -> str:
    """Return the quality of word links against labelled ones."""
    rows = [
        [
            name,
            row["method"],
            *(share(row[key]["mean"]) if row[key] else "" for key in ("precision", "recall")),
            measured(row["aer"], share) if row["aer"] else "",
        ]
        for name, variant in comparison["variants"].items()
        for row in variant["alignment"] or []
    ]
    if not rows:
        return ""
    sentences = next(v["alignment"][0]["sentences"] for v in comparison["variants"].values() if v["alignment"])
    text = (
        f"Word links of {whole(sentences)} test sentences, read while the model writes the reference, against "
        "labelled ones (Och & Ney 2003; lower is better). docs/attention.md says how each is read."
    )
    header = ["variant", "read from", "precision", "recall", "alignment error rate"]
    figure = "![Alignment error rates](alignment.png)"
    return "\n\n".join(["## Word alignment", text, table(header, rows), figure])


def tests(comparison: Mapping[str, Any]) -> str:
    """Return what the tests say, and how they were made."""
    said = verdicts(comparison)
    if not said:
        return ""
    method = (
        f"Paired bootstrap (Koehn 2004): {whole(comparison['bootstrap_samples'])} resamples of the test sentences, the "
        "same for both variants; p is two-sided, in brackets stand "
        f"{comparison['confidence']:.0%} intervals. For the slope, blocks of consecutive sentences are resampled, the "
        "same at every number of joined sentences. Seeds are not resampled."
    )
    return "\n\n".join(
        ["## Is it more than chance?", "\n".join(f"- {line}" for line in said + per_seed(comparison)), method]
    )


def verdicts(comparison: Mapping[str, Any]) -> list[str]:
    """Return one sentence per variant on its test against the baseline."""
    lines = []
    for name, test in comparison["tests"].items():
        scores = " and ".join(f"{effect(test[metric])} {_TITLES[metric]}" for metric in ("bleu", "chrf"))
        gap = test["gap"]
        slope = (
            f" With each further sentence in an input its lead in BLEU changes on average by {effect(gap['slope'])}."
            if gap
            else ""
        )
        lines.append(f"**{name}** is {judge(test['bleu'], comparison)} **{comparison['baseline']}**: {scores}.{slope}")
    for name, one in comparison.get("ensembles", {}).items():
        scores = " and ".join(f"{effect(one['tests'][metric])} {_TITLES[metric]}" for metric in ("bleu", "chrf"))
        verdict = judge(one["tests"]["bleu"], comparison)
        lines.append(f"**{ensemble(name, one)}** is {verdict} the mean of its models: {scores}.")
    return lines


def per_seed(comparison: Mapping[str, Any]) -> list[str]:
    """Return the test of each seed, where there are several."""
    return [
        f"{name}, seed {seed}: {effect(one)} BLEU."
        for name, test in comparison["tests"].items()
        for seed, one in test["bleu"].get("seeds", {}).items()
    ]


def attention(comparison: Mapping[str, Any]) -> str:
    """Return every number of the attention reports: flat ones beside each other, nested ones variant by variant."""
    reports = {name: variant["attention_report"] for name, variant in comparison["variants"].items()}
    there = {name: report for name, report in reports.items() if report}
    absent = [f"`{name}`" for name in reports if name not in there]
    if not there:
        return ""
    keys = dict.fromkeys(key for report in there.values() for key in report if key.count(".") < _NESTED)
    rows = [[f"`{key}`", *(small(report.get(key)) for report in there.values())] for key in keys]
    nested = [text for name, report in there.items() for text in nested_tables(name, report)]
    missing = [f"There is no report on {listing(absent)}."] if absent else []
    return "\n\n".join(["## Output and attention", *missing, *([table(["", *there], rows)] if rows else []), *nested])


def nested_tables(name: str, report: Mapping[str, Any]) -> list[str]:
    """Return a table for each group `a.b` of names `a.b.column.row`."""
    groups: dict[str, dict[str, dict[str, str]]] = {}
    for key, measure in report.items():
        if key.count(".") >= _NESTED:
            group, column, row = key.rsplit(".", 2)
            groups.setdefault(group, {}).setdefault(row, {})[column] = small(measure)
    texts = []
    for group, rows in groups.items():
        columns = list(dict.fromkeys(column for cells in rows.values() for column in cells))
        lines = [[f"`{row}`", *(cells.get(column, "") for column in columns)] for row, cells in rows.items()]
        texts.append(f"**{name}**, `{group}`:\n\n{table(['', *(f'`{column}`' for column in columns)], lines)}")
    return texts


def examples(comparison: Mapping[str, Any]) -> str:
    """Return a few sentences with every variant's translation."""
    chosen = comparison["examples"]
    if not chosen:
        return ""
    seeds, tatoeba = comparison["seeds"], comparison["corpus"]["name"].startswith("tatoeba")
    text = (
        f"The middle sentence of each of {len(chosen)} equally large classes of source length; no translation was "
        "looked at in choosing." + (f" Translations are those of seed {seeds[0]}." if len(seeds) > 1 else "")
    )
    credit = "Sentences by the contributors of Tatoeba (tatoeba.org), CC BY 2.0 FR; the numbers are theirs."
    shown = [example(one, tatoeba) for one in chosen]
    return "\n\n".join(["## Examples", text, *shown, *([credit] if tatoeba else [])])


def example(chosen: Mapping[str, Any], tatoeba: bool) -> str:
    """Return one sentence as a list."""
    lines = [
        f"- **{literal(chosen['source'])}**{credited(chosen['source_id'], tatoeba)}",
        f"  - reference: {literal(chosen['reference'])}{credited(chosen['reference_id'], tatoeba)}",
    ]
    lines += [f"  - {name}: {literal(text) or '(nothing)'}" for name, text in chosen["hypotheses"].items()]
    return "\n".join(lines)


def credited(identifier: str | None, tatoeba: bool) -> str:
    """Return the link to a sentence's page."""
    return f" [#{identifier}]({_TATOEBA}{identifier})" if tatoeba and identifier else ""


def signatures(comparison: Mapping[str, Any]) -> str:
    """Return sacrebleu's signatures."""
    lines = [f"- {_TITLES[metric]} `{signature}`" for metric, signature in comparison["signatures"].items()]
    return "\n\n".join(["## Signatures", "\n".join(lines)])


def uncertainty(comparison: Mapping[str, Any]) -> str:
    """Return what the brackets of the tables mean."""
    seeds = comparison["seeds"]
    if len(seeds) > 1:
        text = f"Means over {len(seeds)} seeds ± standard deviation."
        if comparison.get("ensembles"):
            text += f" In an ensemble's brackets: its {comparison['confidence']:.0%} bootstrap interval."
        return text
    return f"In brackets: {comparison['confidence']:.0%} bootstrap intervals over the test sentences; one seed."


def judge(test: Mapping[str, float], comparison: Mapping[str, Any]) -> str:
    """Return the verdict of a test at the level that the intervals have."""
    if test["p"] + comparison["confidence"] >= 1.0:
        return "not told from chance against"
    return "better than" if test["value"] > 0 else "worse than"


def share(value: float) -> str:
    """Return a share or a rate."""
    return f"{value:.3f}"


def effect(test: Mapping[str, float], digits: int = 2) -> str:
    """Return a difference with its interval and p."""
    p = f"p = {test['p']:.3f}" if test["p"] >= 0.001 else "p < 0.001"
    value, low, high = (signed(test[key], digits) for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}] ({p})"


def unit(comparison: Mapping[str, Any], side: str = "source") -> str:
    """Return what a language's length is counted in."""
    return "characters" if comparison["corpus"][side] in UNSEGMENTED else "words"


def extent(row: Mapping[str, Any]) -> str:
    """Return the lengths of a class."""
    return str(row["low"]) if row["low"] == row["high"] else f"{row['low']}–{row['high']}"


def language(code: str) -> str:
    """Return a language's name, or its code where we have none."""
    return _LANGUAGES.get(code, f"`{code}`")
