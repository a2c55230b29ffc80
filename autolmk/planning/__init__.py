"""Decisions made from the fingerprint: plans, and the rules and searches that planners share. No method is here."""
