"""Load tests of the service: who asks, how much it answers, and how that compares with its peers."""
