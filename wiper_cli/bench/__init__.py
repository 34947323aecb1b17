"""The paper's tables and figures again, and more, from a zoo: cells that are run once, and pages rendered from them.

``cells`` say what is measured, ``running`` measures one, ``matrix`` and ``plans`` say which cells a table needs and
``pages`` and ``figures`` show what stands. The paper's own numbers are in ``paper.json``, other people's in
``field.json``.
"""
