"""Accounting of differential privacy; kept as a documented import path."""

from vaexprs.differential_privacy.accounting import Guarantee, Privacy, plan, spent

__all__ = ["Guarantee", "Privacy", "plan", "spent"]
