"""What a prefix cache does, learned from outside: its law of reuse, size, lifetime and tenants.

Pure algorithms. Each asks through a callback (`kvlab.laws.probe.Probe`), so the same code runs
against a simulation, a test server and a real engine. Nothing here knows HTTP or an experiment.
"""
