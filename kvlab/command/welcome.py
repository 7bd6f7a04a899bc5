"""What ``kvlab`` alone prints: what it is, what to type first, where to read on."""

TEXT = """\
kvlab measures what a KV cache does in LLM serving. Each request is labelled cold, hit or
partial by what the server reports, never by intent. Without evidence the verdict is INVALID.

Start with
  kvlab doctor                             what is installed, and what each experiment can prove here
  kvlab plan token_sweep --profile smoke   requests, tokens, time and money, before anything is sent
  kvlab run token_sweep --profile smoke    run it: about 3 minutes on two cores, and a report

Then
  kvlab experiments    the questions that can be asked
  kvlab ls             your runs; kvlab show ID and kvlab open ID for one of them
  kvlab --help         all commands

Documentation: README.md and docs/ of the checkout; `make docs` builds the site.
Without OPENAI_BASE_URL (.env), kvlab starts a vLLM of its own on this machine."""


def text() -> str:
    """Return it."""
    return TEXT
