from trigger_families import images, trigger, unfitted, victim  # noqa: F401
