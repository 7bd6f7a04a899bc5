"""KV-cache compression: policies that drop entries, data to measure them with, and where accuracy breaks."""
