import pytest

from kvlab.compression.datasets import Example, tokenizer
from kvlab.compression.datasets.template import Rendered, Template, messages, render, template_hash, token_ids
from kvlab.errors import InputError

META = {"task": "t", "language": "en", "answer_mode": "any", "metric": "f1", "answer_prefix": "It is"}
EXAMPLE = Example("t-1", "What {is} it?", "The bell {was} cracked.", ("bell",), META)
TEMPLATE = Template("Read.\n\n{context}\n\nQ: {input}\nA:")


def ids_text(tk, ids):
    return tk.hf.decode(ids, skip_special_tokens=False)


def test_the_prompt_is_cut_where_the_context_ends(tk):
    head, tail = token_ids(render(EXAMPLE, TEMPLATE), tk)
    assert ids_text(tk, head) == "<s><|user|>\nRead.\n\nThe bell {was} cracked."
    assert ids_text(tk, tail) == "\n\nQ: What {is} it?\nA:<|end|>\n<|assistant|>\nIt is"


def test_bos_stands_once_with_and_without_a_chat_template(tk, plain_tk):
    for tokenize, template in (
        (tk, TEMPLATE),
        (tk, Template(TEMPLATE.text, chat=False)),
        (plain_tk, TEMPLATE),
    ):
        head, tail = token_ids(render(EXAMPLE, template), tokenize)
        assert (head + tail).count(tokenize.hf.bos_token_id) == 1
        assert head[0] == tokenize.hf.bos_token_id


def test_without_chat_template_the_prompt_is_what_the_tokenizer_makes_of_the_text(plain_tk):
    bare = Example("t-1", "Why?", "The bell.", ("x",), META | {"answer_prefix": ""})
    rendered = render(bare, TEMPLATE)
    head, tail = token_ids(rendered, plain_tk)
    assert ids_text(plain_tk, head + tail) == f"<s>{rendered.text}"
    assert plain_tk.frame is None


def test_the_control_leaves_the_context_out_and_nothing_else(tk):
    rendered = render(EXAMPLE, TEMPLATE)
    (_, tail), (bare, same) = token_ids(rendered, tk), token_ids(rendered, tk, context=False)
    assert same == tail
    assert ids_text(tk, bare) == "<s><|user|>\nRead.\n\n"
    assert "bell" not in str(messages(rendered, context=False))


def test_the_packaged_models_template_frames_the_context(packaged):
    head, tail = token_ids(render(EXAMPLE, TEMPLATE), packaged)
    whole = packaged.hf.apply_chat_template(
        [{"role": "user", "content": render(EXAMPLE, TEMPLATE).text}],
        tokenize=False,
        add_generation_prompt=True,
    )
    assert ids_text(packaged, head + tail) == whole + "It is"
    # The tokens, too, are those of the whole: the cut splits no token here.
    assert head + tail == packaged.encode(whole + "It is")


def test_messages_carry_the_answer_prefix_where_the_endpoint_allows():
    rendered = render(EXAMPLE, TEMPLATE)
    assert messages(rendered)[-1]["content"].endswith("\nA:\nIt is")
    user, assistant = messages(rendered, prefill=True)
    assert user["content"] == rendered.text
    assert assistant == {"role": "assistant", "content": "It is"}
    assert messages(rendered._replace(answer_prefix="")) == [{"role": "user", "content": rendered.text}]


@pytest.mark.parametrize(
    "text",
    [
        "no fields",
        "{input} {context}",
        "{context} {input} {input}",
        "{context} {x}",
        "{context",
        "{context:5}",
    ],
)
def test_malformed_templates_are_refused(text):
    with pytest.raises(InputError, match="template"):
        render(EXAMPLE, Template(text))


def test_a_template_without_a_question_is_refused_for_questions():
    with pytest.raises(InputError, match=r"no \{input\}"):
        render(EXAMPLE, Template("{context} Sum up."))
    bare = Example("t-1", "", "Text.", ("x",), META)
    assert render(bare, Template("{{{context}}} Sum up.")) == Rendered(
        "{", "Text.", "} Sum up.", "It is", True
    )


def test_the_hash_names_text_chat_and_origin():
    hashes = [
        template_hash(t) for t in (TEMPLATE, Template(TEMPLATE.text, False), Template("{context} {input}"))
    ]
    assert len(set(hashes)) == 3
    ours, theirs = template_hash(TEMPLATE), template_hash(Template(TEMPLATE.text, True, "longbench"))
    assert ours.split("-")[1] == theirs.split("-")[1]
    assert (ours.split("-")[0], theirs.split("-")[0]) == ("kvlab", "longbench")


@pytest.mark.parametrize("name", ["/no/such/folder", "./nothing", "a/b/c"])
def test_a_tokenizer_that_is_not_there_is_refused(name):
    with pytest.raises(InputError, match=r"tokenizer: .* does not exist"):
        tokenizer.load(name)


def test_a_folder_that_is_no_tokenizer_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="cannot be loaded"):
        tokenizer.load(str(tmp_path))


def test_a_tokenizer_is_named_without_its_path(tk, plain_tk):
    assert (tk.name, plain_tk.name) == ("chatty", "plain")
    assert tk.revision != plain_tk.revision  # the chat template counts
    assert tokenizer.Tokenizer.wrap(tk.hf, "x").revision == tk.revision
