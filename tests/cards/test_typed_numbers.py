"""No number of a hand-written card is typed: each comes out of a results file, or stands in code or a name."""

from pathlib import Path

import pytest
from typed_numbers import typed_numbers

FRONT = "---\nlicense: mit\nmeasured_on: me/photos\n---\n"
PAGES = sorted((Path(__file__).parents[2] / "model_cards").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_our_cards_have_no_typed_numbers(page):
    """Write ``{{ metrics.... }}`` or another expression, or put it into code if it is no result."""
    assert typed_numbers(page.read_text(encoding="utf-8")) == []


def test_there_are_cards():
    assert len(PAGES) >= 9


@pytest.mark.parametrize(
    "typed",
    [
        "Reaches 97 % of it.", "It has 2.7 M weights.", "In {{ 3.5 }} steps.", "A picture of 64 by 64.", "1,234 rows",
        "Cosine .97", "It lost -0.5", "_97_ of them", "½ of it", "Ninety-seven per cent", "{{ '97 %' }}",
        "{{ 90 + 7 }}", "{% set best = 97 %}\n{{ best }}", "{{ metrics.nope | default(97) }}",
        "{{ metrics.get('nope', 97) }}", "{{ 97 | decimals(1) }}", "{{ metrics.top1 * 0 + 97 }}",
        "{% raw %}97{% endraw %}", "{% for best in [97] %}{{ best }}{% endfor %}", "{{ '%d' % 97 }}",
        "{{ 'of ' ~ 97 }}",        "{{ 97 if metrics.top1 else 3 }}", "{{ -97 }}", "{{ range(97) | list }}",
    ],
)  # fmt: skip
def test_typed_numbers_are_found(typed):
    assert typed_numbers(f"{FRONT}Some words.\n\n{typed}\n")


@pytest.mark.parametrize(
    "front",
    [
        "co2_eq_emissions: 12.5\n",
        "summary: 97 % right\n",
        "emissions: {source: us, value: 12.5}\n",
        "scores:\n- 97\n",
        "measures:\n{% for split in ['a'] %}\n- {metric: top1, key: a, name: b, meaning: of 97}\n{% endfor %}\n",
        "measures: [{metric: top1, key: a, name: b, meaning: of 97}]\n",
        "{% set best = 97 %}\n",
    ],
)
def test_typed_numbers_in_the_metadata_are_found(front):
    assert typed_numbers(f"---\nlicense: mit\n{front}---\nA story.\n")


@pytest.mark.parametrize(
    "front",
    ["license: apache-2.0\nlicense_name: Llama 2\n", "size_categories: [1K<n<10K]\n", "measured_by: try --steps 5\n"],
)
def test_metadata_may_hold_versions_and_sizes(front):
    assert typed_numbers(f"---\n{front}---\nA story.\n") == []


@pytest.mark.parametrize(
    "body",
    [
        "Wrong in {{ 100 - metrics.top1 }}", "{{ '%.1f' % metrics.top1 }}", "{{ 100 * metrics.share }}",
        "{{ [metrics.top1][0] }}", "{% if metrics.top1 > 50 %}, good{% endif %}", "{{ metrics.top1 | decimals(1) }}",
    ],
)  # fmt: skip
def test_what_is_made_of_results_is_not_typed(body):
    assert typed_numbers(f"{FRONT}{body}.\n") == []


@pytest.mark.parametrize("name", ["ViT-L/14-336", "LLaVA-1.5", "`seed 3`", "[it](https://x.org/2512.10805)", "OFL-1.1"])
def test_names_and_code_may_hold_digits(name):
    assert typed_numbers(f"{FRONT}As {name} does.\n") == []
