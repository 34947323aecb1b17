"""Importance of the head's units on clean data: functions of (features, logits, labels, weight)."""
