"""KV-budget transition: at which share of kept cache entries does accuracy break, and how sure are we?"""
