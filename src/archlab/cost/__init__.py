"""What answers cost: measured throughput times a price list of one's own."""
