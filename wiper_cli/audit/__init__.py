"""One pipeline from scan to verify: what the worker, the bench and the zoo run, and Python may call.

    from pathlib import Path
    from wiper_cli.audit.stories.purify import purify
    from wiper_cli.audit.stories.scan import scan
    from wiper_cli.audit.requests import PurifyRequest, ScanRequest
    found = scan(ScanRequest(model=Path("model.onnx"), clean=Path("clean")))
    done = purify(PurifyRequest(model=Path("model.onnx"), clean=Path("clean")))

``found.verdict`` and ``found.sentence`` say what was found, ``done.accepted`` whether ``done.edit`` may be written
(``formats.write_edit``). ``wiper_cli.worker.parent.ask`` has the same request answered in a process of its own.
"""
