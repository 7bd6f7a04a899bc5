"""Comparing stored runs: may they be compared, by what ratio they differ, and what may be said of it.

sides       a name becomes one or more stored runs
differences what differs between two sides: parameters, model, server, law, versions, machine, load
refusals    in which ways two sides may not be compared, and what weakens a comparison
values      requests become values, and values an effect by the design that they allow
comparison  the verdict of the primary metric, the others corrected for looking
calibration how often this comparison calls two equal sides different
planning    how many starts and pairs a wanted precision costs
pictures, page, writing   the figure, the page, compare.json
interleave, blocks        two configurations in turns, stopped as soon as it can be said
grid        factors, levels and starts: many runs in random order

The experiments are not known here: what is compared are their requests, by arm and trial.
"""
