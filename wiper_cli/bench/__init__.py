"""The paper's tables and figures again, and more, from a zoo: cells that are run once, and pages rendered from them.

``cells`` says what is measured, ``running`` measures one on its ``ground``, ``store`` keeps it, ``identity`` says
whether it still holds; ``matrix`` and ``plans`` say which cells a table needs, ``work`` runs what is missing;
``standing``, ``pages`` and ``figures`` show the rest. The paper's own numbers are in ``paper.json``, other people's in
``benchmark.json``.
"""
