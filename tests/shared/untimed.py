"""A report less what differs between two runs of the same scan: times, and memory that was free."""

import json

TIMES = ("created", "timing", "cached", "arguments")
PRICES = ("seconds_expected", "forward_seconds", "backward_seconds", "memory")


def untimed(document):
    document = json.loads(json.dumps(document))
    for name in TIMES:
        document.pop(name)
    for name in PRICES:
        (document["detection"]["plan"] or {}).pop(name, None)
    for detector in document["detection"]["detectors"]:
        detector.pop("seconds")
    for layer in document["isolation"]["layers"]:
        if layer["name"] == "memory":
            layer.pop("detail")
    return document
