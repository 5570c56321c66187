"""Whether generated cells leak training cells: `audit_privacy`."""
