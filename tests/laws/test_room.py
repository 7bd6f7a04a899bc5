import ast

from tests.conftest import ROOT


def test_the_room_knows_no_other():
    for path in (ROOT / "kvlab" / "laws").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not [n for n in names if n.startswith("kvlab") and not n.startswith("kvlab.laws")], path


def test_the_law_imports_nothing_so_that_labels_may_use_it():
    text = (ROOT / "kvlab" / "laws" / "law.py").read_text()
    assert "import kvlab" not in text
    assert "from kvlab" not in text
