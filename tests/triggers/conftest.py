from trigger_families import classifier, images, trigger, unfitted, victim  # noqa: F401
