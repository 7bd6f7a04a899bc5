import ast
import csv
import io
import random
import re
from html.parser import HTMLParser

import pytest
from dotenv import dotenv_values
from markdown_it import MarkdownIt

from kvlab import escape

HOSTILE = [
    "1 ![px](http://127.0.0.1:9/pixel.png)", "[link](javascript:alert(1))", "![a][b]\n\n[b]: http://x/y.png",
    "<img src=http://x/y.png>", "<script>alert(1)</script>", "<http://x/y>", "&lt;script&gt; &#60;b>", "a|b|c",
    "`code` ``x` y", "line\nend\r\nand\u2028more\x85x", "\x1b[31mred\x1b[0m \x07 \x9b2J", "\u202edrow\u202c", "\ud800half",
    "=cmd|' /C calc'!A0", "@SUM(1)", "+1+1", "-2+3", "\t=1", "\uff1d1", " =1", "nul\x00nul", "'''\"\"\"\\", "\\", "\\|", "\\\\|",
    'm\nimport os; os.system("touch /tmp/x")\n#', "a\r\nX-Evil: 1", "${HOME} $(id) `id`", "x' y\" z", "測定 ü", "[/b] [bold]x",
    "# heading", "> quote", "[ref]: http://x", "*a* _b_ __c__ ~~d~~", "]( x ]:", "![", "", " ", "-", "1. a", "a\\](b)", "\\`a`",
]  # fmt: skip
_SIGNS = "[](){}!<>|`*_~\\&#;:'\"=+-@ \n\r\t\x1b\x00ab1/.$%\u202e\u2028"


def texts():
    draw = random.Random(5)
    return [*HOSTILE, *("".join(draw.choices(_SIGNS, k=draw.randrange(1, 25))) for _ in range(1500))]


PARSER = MarkdownIt("commonmark", {"html": True}).enable("table")


def shown(markdown, tag):
    """What stands in the only element of this kind, and the names of all elements."""
    tokens = PARSER.parse(markdown)
    inline = [token for token in tokens if token.type == "inline"]
    kinds = {child.type for token in inline for child in token.children} | {token.type for token in tokens}
    return ["".join(child.content for child in token.children) for token in inline], kinds


def test_a_cell_of_markdown_is_shown_as_it_is():
    for text in texts():
        content, kinds = shown(
            f"| a | b |\n|---|---|\n| x {escape.markdown(text)} x | {escape.markdown(text)} |\n", "td"
        )
        wanted = escape.line(text)
        assert len(content) == 4, text  # two of the head, two of the row: no cell more or less
        assert content[2] == f"x {wanted} x".replace("x  x", "x  x"), text
        assert content[3] == wanted.strip(), text
        assert kinds <= {"inline", "text", "text_special", "table_open", "table_close", "thead_open", "thead_close", "tbody_open",
                         "tbody_close", "tr_open", "tr_close", "th_open", "th_close", "td_open", "td_close"}, text  # fmt: skip


def test_code_of_markdown_is_shown_as_it_is():
    for text in texts():
        content, kinds = shown(f"x {escape.markdown_code(text)} x\n", "p")
        assert "code_inline" in kinds, text
        assert not kinds & {"image", "link_open", "html_inline", "softbreak"}, text
        assert len(content) == 1, text


def test_prose_loads_nothing_and_links_nowhere():
    for text in texts():
        for line in (escape.markdown_prose(text), f"Seen: {escape.markdown_prose(text)} and `code`."):
            _, kinds = shown(f"{line}\n\n- {line}\n", "p")
            assert not kinds & {
                "image",
                "link_open",
                "html_inline",
                "html_block",
                "heading_open",
                "blockquote_open",
            }, text


def test_html_has_no_element_of_the_texts():
    class Reader(HTMLParser):
        def handle_starttag(self, tag, attrs):
            seen.append((tag, [name for name, _ in attrs]))

    for text in texts():
        seen: list[tuple[str, list[str]]] = []
        Reader().feed(f'<p title="{escape.html(text)}">{escape.html(text)}</p>')
        assert seen == [("p", ["title"])], text


def test_no_cell_of_a_csv_is_a_formula_and_numbers_stay():
    for text in texts():
        file = io.StringIO()
        csv.writer(file).writerow([escape.csv_cell(text), "b"])
        row = next(csv.reader(io.StringIO(file.getvalue(), newline="")))
        assert len(row) == 2, text
        first = row[0].lstrip()[:1]
        assert first not in ("=", "@", "\uff1d") or row[0].startswith("'"), text
        assert row[0] in (escape.csv_cell(text), *[escape.csv_cell(text)])
        file.getvalue().encode()
    for number in ("-1.5", "+2e-3", "12", "-3%", " 4"):
        assert escape.csv_cell(number) == number
    assert escape.csv_cell(-1.5) == -1.5
    assert escape.csv_cell(None) is None


def test_a_terminal_gets_no_control_character_but_line_ends():
    for text in texts():
        found = escape.terminal(text)
        assert not re.search(
            r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]", found.replace("\r\n", "\n")
        ), text
        assert found.count("\n") == str(text).count("\n")
        assert "\n" not in escape.line(text)
        found.encode()


def test_python_and_its_comments_run_nothing():
    for text in texts():
        source = f"# {escape.comment(text)}\nx = {escape.python_literal(text)}\n"
        tree = ast.parse(source)
        assert len(tree.body) == 1, text
        assert ast.literal_eval(tree.body[0].value) == text


def test_a_value_of_an_env_file_comes_back(tmp_path):
    path = tmp_path / ".env"
    for text in texts():
        path.write_text(f"# {escape.comment(text)}\nA={escape.env_value(text)}\nB=2\n")
        assert dotenv_values(path) == {"A": escape.line(text).replace("${", "$ {"), "B": "2"}, text


def test_a_header_is_one_line_of_ascii():
    for text in texts():
        found = escape.header(text)
        assert found.isascii()
        assert found.isprintable() or not found
    assert escape.header("2026-01-01/x y/token_sweep") == "2026-01-01/x y/token_sweep"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("smoke", "smoke"),
        ("my[1]", "my_1"),
        ("../../etc", "etc"),
        ("-rf", "rf"),
        ("測定", "測定"),
        ("a\nb c", "a_b_c"),
        ("", "_"),
    ],
)
def test_a_file_name_is_one_part(text, name):
    assert escape.file_name(text) == name
