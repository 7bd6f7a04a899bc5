"""kvlab: a workbench for KV-cache behaviour in LLM serving.

Importing this package imports neither torch, vllm nor matplotlib; each module imports what it needs.
"""

__version__ = "0.1.0"
