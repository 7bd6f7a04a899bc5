"""The embedded vLLM server: the packaged model, the process, and what its /metrics say."""
