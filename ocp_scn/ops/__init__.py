"""What the network computes with beyond torch's own operators."""
