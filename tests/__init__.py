"""What tests of all folders share."""

# Seconds after which what a test has started is taken to hang. No measure of speed: a machine may be slow,
# and busy with something else.
HANG = 2400
