import pytest

from kvlab.prompts.batch import Conversation, Workload, question, restore, system_message

TEXT = "Section 1."


def test_shared_requests_begin_alike_and_isolated_ones_differ_in_their_first_words():
    shared, isolated = Workload("shared", "m", TEXT), Workload("isolated", "m", TEXT)
    assert shared.system(0) == shared.system(1) == system_message("m", TEXT)
    first, second = isolated.system(0)["content"], isolated.system(1)["content"]
    assert first[:16] != second[:16]
    assert first[16:] == second[16:]
    assert shared.question(3) == isolated.question(3) == question(0, 3)
    assert shared.question(3) != shared.question(4)


def test_a_stored_prompt_can_be_restored():
    base = {"marker": "m", "text": TEXT}
    for kind in ("shared", "isolated"):
        workload = Workload(kind, "m", TEXT, seed=5)
        messages = [workload.question(7)]
        stored = workload.stored(7, messages, "sha")
        assert restore(stored, {"sha": base}.__getitem__) == [workload.system(7), *messages]


def test_a_conversation_grows_and_is_trimmed():
    talk = Conversation(
        Workload("conversation", "m", TEXT, conversations=1, trim_interval=3, keep_messages=2)
    )
    lengths = []
    for item in range(7):
        lengths.append(len(talk.ask(item)))
        talk.answer(item, f"answer {item}")
    assert lengths == [1, 3, 5, 3, 5, 7, 3]
    assert [m["content"] for m in talk.history if m["role"] == "assistant"] == ["answer 5", "answer 6"]


def test_a_conversation_goes_on_without_what_failed():
    talk = Conversation(Workload("conversation", "m", TEXT))
    talk.ask(0)
    talk.answer(0, None)
    assert len(talk.ask(1)) == 1


@pytest.mark.parametrize(("keep", "kept"), [(0, 0), (1, 0), (2, 2), (3, 2), (4, 4), (9, 6)])
def test_a_trimmed_conversation_begins_with_a_question(keep, kept):
    """Chat templates that want user and assistant in turn refuse one that begins with an answer."""
    talk = Conversation(Workload("conversation", "m", TEXT, trim_interval=3, keep_messages=keep))
    for item in range(3):
        talk.ask(item)
        talk.answer(item, f"answer {item}")
    sent = talk.ask(3)
    assert [message["role"] for message in sent] == ["user", "assistant"] * (kept // 2) + ["user"]
