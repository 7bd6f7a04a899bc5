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
