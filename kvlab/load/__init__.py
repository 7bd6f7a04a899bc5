"""The load generator: thousands of measured requests per second, none of them in the notebook's process.

    notebook ── job ──▶ recorder ── job ──▶ generator ══ requests ══▶ server
             ◀ progress          ◀ stamped bytes

The *generator* (`kvlab.load.generator`) only sends, reads and stamps. The *recorder*
(`kvlab.load.recorder`) parses what came and commits it to the run's database, at a lower priority, and
reports what is committed. The notebook (`kvlab.load.control`) starts them, shows progress, and stops
them; when it dies, they do. Whatever dies, what was reported is in the database, and a resume
sends exactly the items that have no final row there.
"""
