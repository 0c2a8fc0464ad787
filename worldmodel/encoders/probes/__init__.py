"""Probes of a frozen encoder of clips: classes, points and anomalies that can be read from its features."""
