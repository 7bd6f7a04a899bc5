"""Real servers, and what kvlab's experiments say of them: llama.cpp, vLLM, a LiteLLM proxy, replicas behind a router."""
