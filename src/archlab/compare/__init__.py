"""The controlled comparison: budgets, cost, the experiment and its report."""
