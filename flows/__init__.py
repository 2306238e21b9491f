"""The procedures: one module a subject, each flow readable aloud."""
