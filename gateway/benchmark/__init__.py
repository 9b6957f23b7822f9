"""What the gateway costs: `make bench-gateway`. Not part of the installed package."""
