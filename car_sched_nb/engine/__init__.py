"""Plan, settle, run, finish."""
