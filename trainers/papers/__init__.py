"""The seed papers' tables as protocols: what is trained, what is measured, and what the paper reports."""
