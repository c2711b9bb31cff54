"""tapnet: a TAP-bridged hardware-in-the-loop network emulator."""

__version__ = "0.1.0"
