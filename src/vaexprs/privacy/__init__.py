"""Tests for leakage of training cells by generated cells: `audit_privacy`."""
