import itertools

import nbformat
import pytest
import yaml

from kvlab import experiments, paths
from kvlab.errors import InputError
from kvlab.experiments.token_sweep.params import TokenSweepParams
from kvlab.params import resolve
from kvlab.settings import load_settings


def sweep(**options):
    return resolve(TokenSweepParams, "token_sweep", **options)


def test_the_default_profile_is_the_scenario():
    params = sweep().params
    assert params.token_targets == list(range(4000, 40001, 4000))
    assert (params.max_tokens, params.temperature, params.manual_seed) == (64, 0.0, 17)
    assert (params.manual_sections, params.ttft_min_reduction_fraction) == (1200, 0.10)
    assert (params.repeats, params.order) == (1, "ascending")


def test_precedence_profile_environment_set(monkeypatch):
    monkeypatch.setenv("MAX_TOKENS", "7")
    monkeypatch.setenv("SCENARIO_TOKEN_TARGETS", "900,300")
    found = sweep(profile="smoke", settings=load_settings(), overrides=["repeats=3", "max_tokens=9"])
    assert (found.params.token_targets, found.params.repeats, found.params.max_tokens) == ([300, 900], 3, 9)
    assert found.sources["token_targets"] == "env SCENARIO_TOKEN_TARGETS"
    assert found.sources["max_tokens"] == "--set"
    assert found.sources["manual_sections"] == "smoke.yaml"
    assert found.sources["temperature"] == "default.yaml"


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("repeats=0", "repeats: 0"),
        ("repeats=true", "repeats: True"),
        ("repeat=3", "did you mean repeats?"),
        ("repeats", "must be key=value"),
        ("token_targets=[]", "token_targets"),
        ("token_targets=[100,100]", "holds a length twice"),
        ("token_targets=[-5]", "-5 is not a prompt length"),
        ("temperature=.nan", "temperature"),
        ("api=grpc", "api: 'grpc'"),
        ("order=null", "order"),
        ("token_targets=[1", "not YAML"),
        ("isolation_id='a b'", "isolation_id"),
        ("token_targets=&a [*a]", "one that contains itself"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_it(override, says):
    with pytest.raises(InputError) as caught:
        sweep(overrides=[override])
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["- a list", "a: [1", "\xff", "nope: 1", "a: &a [*a]", "a: &a {b: *a}"])
def test_a_wrong_file_is_one_line(tmp_path, content):
    file = tmp_path / "mine.yaml"
    file.write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError) as caught:
        sweep(file=file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("profile", ["none", "../token_sweep/smoke", "/etc/passwd"])
def test_an_unknown_profile_is_refused(profile):
    with pytest.raises(InputError, match="--profile"):
        sweep(profile=profile)


@pytest.mark.parametrize("name", sorted(experiments.registry()))
def test_every_profile_is_valid_and_default_is_complete(name):
    kind = experiments.get(name).Params
    folder = paths.home() / "params" / name
    assert set(yaml.safe_load((folder / "default.yaml").read_text())) == set(kind.model_fields)
    for path in folder.glob("*.yaml"):
        resolve(kind, name, profile=path.stem)


@pytest.mark.parametrize("name", sorted(experiments.registry()))
def test_a_notebooks_parameters_are_its_smoke_profile(name):
    notebook = nbformat.read(experiments.notebook(name), as_version=4)
    cell = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    namespace: dict[str, object] = {}
    exec(cell.source, namespace)
    kind = experiments.get(name).Params
    smoke = resolve(kind, name, profile="smoke").params.model_dump()
    values = kind.collect(namespace)
    checked = kind.check(values).model_dump()  # a group in the cell need not name what is the default
    assert {key: checked[key] for key in values} == {key: smoke[key] for key in values}
    profile = yaml.safe_load((paths.home() / "params" / name / "smoke.yaml").read_text())
    assert set(profile) <= set(values), "papermill -f smoke.yaml must find every key in the cell"
    assert (namespace["profile"], namespace["run_dir"]) == ("smoke", "")


def bomb(kind):
    """Nine lines that stand for a billion values."""
    lines = ["a: &a [1,1,1,1,1,1,1,1,1,1]"] if kind == "list" else ["a: &a {x: 1, y: 2, z: 3}"]
    for before, name in itertools.pairwise("abcdefghijkl"):
        tenfold = ",".join([f"*{before}"] * 10)
        lines.append(
            f"{name}: &{name} " + (f"[{tenfold}]" if kind == "list" else f"{{<<: [{tenfold}], {name}: 1}}")
        )
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (bomb("list"), "every \\* written out"), (bomb("merge"), "every \\* written out"), ("a: " + "[" * 100_000, "nested deeper"),
        ("a: " + "[" * 70 + "]" * 70, "nested deeper"), ("a: " + "{a: " * 5000 + "1" + "}" * 5000, "nested deeper"),
        ("a: 'x" + "x" * 2_000_000 + "'", "bytes"), ("a: [" + "1," * 30_000 + "]", "values"), ("seed: 2026-99-99", "not valid YAML"),
        ("seed: !!python/object/apply:os.system [id]", "not valid YAML"), ("? [a, b]\n: 1", "YAML"), ("{[]: 1}", "YAML"),
        ("seed: !!binary x", "not valid YAML"), ("seed: " + "9" * 5000, "not valid YAML"), ("a: \x00", "not valid YAML"),
    ],
    ids=range(14),
)  # fmt: skip
def test_a_hostile_file_is_one_line_and_soon(tmp_path, content, says):
    file = tmp_path / "mine.yaml"
    file.write_text(content)
    with pytest.raises(InputError, match=says) as caught:
        sweep(file=file)
    assert "\n" not in str(caught.value)


def test_a_file_with_a_byte_order_mark_and_aliases_is_read(tmp_path):
    file = tmp_path / "測定.yaml"
    file.write_bytes("\ufefftoken_targets: &t [300, 400]\nrepeats: 2\n".encode())
    assert sweep(file=file).params.token_targets == [300, 400]


@pytest.mark.parametrize(
    "name",
    ["openai_api_key", "OPENAI_API_KEY", "Tensormesh_User_Id", "HF_TOKEN", "MY_PASSWORD", "aws_secret"],
)
def test_no_variable_with_a_secret_is_put_into_parameters(tmp_path, monkeypatch, name):
    file = tmp_path / "mine.yaml"
    file.write_text(f"isolation_id: ${{{name}}}\n")
    monkeypatch.setenv(name, "sk-CANARY-0123456789")
    with pytest.raises(InputError, match="secret") as caught:
        sweep(file=file)
    assert "CANARY" not in str(caught.value)


@pytest.mark.parametrize("value", ["[", "a: b: c", "*x", "&a [*a]", "\t\t%"])
def test_a_variable_that_is_no_yaml_is_one_line(tmp_path, monkeypatch, value):
    file = tmp_path / "mine.yaml"
    file.write_text("repeats: ${REP}\n")
    monkeypatch.setenv("REP", value)
    with pytest.raises(InputError, match=r"repeats: .*REP.* stands for no YAML value"):
        sweep(file=file)


@pytest.mark.parametrize("how", ["file", "set", "variable"])
def test_a_secret_is_refused_however_it_comes_into_the_parameters(tmp_path, monkeypatch, how):
    key = "sk-CANARY-0123456789"
    monkeypatch.setenv("OPENAI_BASE_URL", "http://h/v1")
    monkeypatch.setenv("OPENAI_MODEL", "m")
    monkeypatch.setenv("OPENAI_API_KEY", key)
    monkeypatch.setenv("MINE", key)
    file = tmp_path / "mine.yaml"
    file.write_text({"file": f"isolation_id: {key}", "set": "", "variable": "isolation_id: ${MINE}"}[how])
    overrides = [f"isolation_id={key}"] if how == "set" else []
    with pytest.raises(InputError, match="isolation_id: holds a secret") as caught:
        sweep(file=file, overrides=overrides, settings=load_settings())
    assert "CANARY" not in str(caught.value)


def test_an_override_goes_no_deeper_than_parameters_do():
    with pytest.raises(InputError, match="deeper"):
        sweep(overrides=[".".join("a" * 3000) + "=1"])
