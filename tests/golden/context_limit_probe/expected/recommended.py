# Measured by kvlab on 2026-11-25T12:55:03+00:00 for fake.
# the largest whole number below 80% of the measured maximum of 1,098 tokens (what stands at the start is no longer answered)
MAX_CONTEXT_TOKENS = 878
# 85% of MAX_CONTEXT_TOKENS: one more answer fits before the maximum
CONTEXT_TRIM_THRESHOLD = 746
# exchanges from one trim to the next: from the 2 that are kept up to the threshold, at 93 tokens an exchange (the most that was measured)
TRIM_INTERVAL = 4
# 2 exchanges of 2 messages, at least one: what fits into 50% of the threshold (373 tokens) beside 100 fixed tokens, at 93 tokens an exchange
KEEP_MESSAGES = 4
